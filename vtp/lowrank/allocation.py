"""Which rank each unit gets, so that a model of many units keeps one budget.

Every unit offers choices: a rank with its cost and its error, or staying dense at full cost without error.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from vtp.knapsack import Floats, Table, solve


@dataclass(frozen=True)
class Choices:
    """What one unit can be.

    Attributes:
        costs: of rank 1, 2, …, each below `dense`; may be empty.
        errors: squared error of the output at those ranks, on a scale that all units share.
        dense: cost of staying dense.
    """

    costs: Floats
    errors: Floats
    dense: float

    @property
    def least(self) -> float:
        """Cost of the cheapest choice."""
        return float(self.costs[0] if len(self.costs) else self.dense)


Ranks = dict[str, int | None]


def uniform(units: Mapping[str, Choices], keep: float) -> Ranks:
    """Give each unit the rank whose cost is nearest to `keep` of its dense cost; None: it stays dense.

    Units whose cheapest choice costs more take that, and the others a smaller part of theirs. What rounding one
    unit leaves or overdraws is carried to the next, so that the whole model is at most half a step, the widest
    between two choices of a unit, above or below the budget, unless the cheapest choices of all cost more than
    that.
    """
    ranks: Ranks = {}
    carried = 0.0
    share = _common_share(units.values(), keep)
    for name, unit in units.items():
        wanted = max(unit.least, share * unit.dense) + carried
        options = np.append(unit.costs, unit.dense)
        nearest = options[np.abs(options - wanted).argmin()]
        best = int(np.flatnonzero(options == nearest)[-1])  # time rises by steps: the highest rank of one
        ranks[name] = best + 1 if best < len(unit.costs) else None
        carried = wanted - options[best]
    return ranks


def _common_share(units: Collection[Choices], keep: float) -> float:
    """Return the fraction s of the dense costs at which Σ max(least, s·dense) is `keep` of them all."""
    left, budget = list(units), keep * sum(unit.dense for unit in units)
    while left:
        share = budget / sum(unit.dense for unit in left)
        above = [unit for unit in left if unit.least > share * unit.dense]
        if not above:
            return share
        budget -= sum(unit.least for unit in above)
        left = [unit for unit in left if unit.least <= share * unit.dense]
    return 0.0


def water_filling(units: Mapping[str, Choices], keep: float) -> Ranks:
    """Return the ranks of least total error whose total cost is at most `keep` of the dense cost.

    Where errors fall convexly with the cost this is water-filling: every unit is cut where one more parameter
    removes equally much. In general it is a knapsack problem, which is solved exactly.
    """
    tables = [Table(np.append(unit.costs, unit.dense), np.append(unit.errors, 0.0)) for unit in units.values()]
    chosen = solve(tables, keep * sum(unit.dense for unit in units.values()))
    return {
        name: index + 1 if index < len(unit.costs) else None
        for (name, unit), index in zip(units.items(), chosen, strict=True)
    }


ALLOCATIONS = {"uniform": uniform, "global": water_filling}
