"""Which rank each layer gets, so that a model of many layers keeps one budget.

Every layer offers choices: a rank with its cost and its error, or staying dense at full cost without error.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import LinearConstraint, milp
from scipy.sparse import csr_matrix

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Choices:
    """What one layer can be.

    Attributes:
        costs: of rank 1, 2, …, each below `dense`; may be empty.
        errors: squared error of the output at those ranks, in a unit that all layers share.
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


def uniform(layers: Mapping[str, Choices], keep: float) -> Ranks:
    """Give each layer the rank whose cost is nearest to `keep` of its dense cost; None: it stays dense.

    What rounding one layer leaves or overdraws is carried to the next, so that the whole model is within one
    rank of the budget.
    """
    ranks: Ranks = {}
    carried = 0.0
    for name, layer in layers.items():
        wanted = keep * layer.dense + carried
        options = np.append(layer.costs, layer.dense)
        best = int(np.abs(options - wanted).argmin())
        ranks[name] = best + 1 if best < len(layer.costs) else None
        carried = wanted - options[best]
    return ranks


def water_filling(layers: Mapping[str, Choices], keep: float) -> Ranks:
    """Return the ranks of least total error whose total cost is at most `keep` of the dense cost.

    A multiple-choice knapsack: exactly one choice a layer. It is solved to the optimum by HiGHS; for convex
    error curves the solution is water-filling, every layer cut where one more parameter removes equally much.
    """
    names = list(layers)
    costs = [np.append(layer.costs, layer.dense) for layer in layers.values()]
    errors = [np.append(layer.errors, 0.0) for layer in layers.values()]
    budget = keep * sum(layer.dense for layer in layers.values())
    sizes = [len(c) for c in costs]
    owner = np.repeat(np.arange(len(names)), sizes)
    one_each = csr_matrix((np.ones(len(owner)), (owner, np.arange(len(owner)))))
    scale = max(float(np.concatenate(errors).max()), np.finfo(float).tiny)
    solved = milp(
        np.concatenate(errors) / scale,
        integrality=np.ones(len(owner)),
        bounds=(0, 1),
        constraints=[
            LinearConstraint(one_each, 1, 1),
            LinearConstraint(np.concatenate(costs)[None, :] / budget, -np.inf, 1),
        ],
        options={"mip_rel_gap": 0.0},  # else it stops 1e-4 short of the optimum
    )
    chosen = [int(part.argmax()) for part in np.split(solved.x, np.cumsum(sizes)[:-1])]
    return {
        name: index + 1 if index < size - 1 else None
        for name, index, size in zip(names, chosen, sizes, strict=True)
    }


ALLOCATIONS = {"uniform": uniform, "global": water_filling}
