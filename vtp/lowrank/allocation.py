"""Which rank each layer gets, so that a model of many layers keeps one budget.

Every layer offers choices: a rank with its cost and its error, or staying dense at full cost without error.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

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
LIMIT = 2000  # sums of choices; more arise only near keep 1, where many layers could as well stay dense


def uniform(layers: Mapping[str, Choices], keep: float) -> Ranks:
    """Give each layer the rank whose cost is nearest to `keep` of its dense cost; None: it stays dense.

    Layers whose cheapest choice costs more take that, and the others a smaller part of theirs. What rounding one
    layer leaves or overdraws is carried to the next, so that the whole model is within one rank of the budget,
    unless the cheapest choices of all cost more than that.
    """
    ranks: Ranks = {}
    carried = 0.0
    share = _common_share(layers.values(), keep)
    for name, layer in layers.items():
        wanted = max(layer.least, share * layer.dense) + carried
        options = np.append(layer.costs, layer.dense)
        best = int(np.abs(options - wanted).argmin())
        ranks[name] = best + 1 if best < len(layer.costs) else None
        carried = wanted - options[best]
    return ranks


def _common_share(layers: Collection[Choices], keep: float) -> float:
    """Return the fraction s of the dense costs at which Σ max(least, s·dense) is `keep` of them all."""
    left, budget = list(layers), keep * sum(layer.dense for layer in layers)
    while left:
        share = budget / sum(layer.dense for layer in left)
        above = [layer for layer in left if layer.least > share * layer.dense]
        if not above:
            return share
        budget -= sum(layer.least for layer in above)
        left = [layer for layer in left if layer.least <= share * layer.dense]
    return 0.0


def water_filling(layers: Mapping[str, Choices], keep: float) -> Ranks:
    """Return the ranks of least total error whose total cost is at most `keep` of the dense cost.

    A multiple-choice knapsack: exactly one choice a layer. For convex error curves the solution is water-filling,
    every layer cut where one more parameter removes equally much: `_price`, the Lagrange multiplier λ of the
    budget, is that exchange rate. Curves that are not convex, and what is left over from whole ranks, are
    settled by a search that is exact within its `LIMIT` (`_search`).
    """
    tables = [_undominated(layer) for layer in layers.values()]
    budget = keep * sum(layer.dense for layer in layers.values()) * (1 + 1e-12)
    price = _price(tables, budget)
    _, bound = _search(tables, budget, price, np.inf, 100)
    chosen, _ = _search(tables, budget, price, bound, LIMIT)
    ranks = [int(table.option[index]) for table, index in zip(tables, chosen, strict=True)]
    return {
        name: rank + 1 if rank < len(layer.costs) else None
        for (name, layer), rank in zip(layers.items(), ranks, strict=True)
    }


class _Table(NamedTuple):
    """A layer's choices by rising cost and falling error; `option` counts from 0, the dense layer last."""

    costs: Floats
    errors: Floats
    option: NDArray[np.intp]


def _undominated(layer: Choices) -> _Table:
    """Return the choices that no cheaper one beats."""
    costs, errors = np.append(layer.costs, layer.dense), np.append(layer.errors, 0.0)
    best_before = np.minimum.accumulate(np.append(np.inf, errors[:-1]))
    option = np.flatnonzero(errors < best_before)
    return _Table(costs[option], errors[option], option)


def _price(tables: Sequence[_Table], budget: float) -> float:
    """Return the least λ at which the choices of least error + λ · cost keep the budget, to a part in 1e15."""

    def cost(price: float) -> float:
        return sum(float(t.costs[(t.errors + price * t.costs).argmin()]) for t in tables)

    if cost(0.0) <= budget:
        return 0.0
    low = 0.0
    high = max(float(np.finfo(float).tiny), *(float(t.errors.max() / t.costs.min()) for t in tables))
    while cost(high) > budget:
        high *= 2
    for _ in range(200):
        middle = (low * high) ** 0.5 if low > 0 else high * 1e-4
        low, high = (middle, high) if cost(middle) > budget else (low, middle)
        if high <= low * (1 + 1e-15):
            break
    return high


def _search(
    tables: Sequence[_Table], budget: float, price: float, bound: float, limit: int
) -> tuple[list[int], float]:
    """Return the index chosen in each table, and the total error.

    Layer by layer, all sums of choices that could still lead to a total error up to `bound` are kept. What a
    choice adds to error + λ · cost above the least in its table is its excess: a sum whose excess passes that of
    `bound` cannot, nor can one that another sum beats in cost and error. Of more than `limit` sums those of least
    excess are kept, and the cheapest: only then may the total miss the optimum.
    """
    excesses = [t.errors + price * t.costs for t in tables]
    slack = (bound + price * budget) * (1 + 1e-9) - sum(float(e.min()) for e in excesses)
    excesses = [e - e.min() for e in excesses]
    to_come = np.cumsum([0.0, *(float(t.costs[0]) for t in reversed(tables))])[::-1]
    costs, errors, excess = np.zeros(1), np.zeros(1), np.zeros(1)
    steps = []
    for table, extra, cheapest in zip(tables, excesses, to_come[1:], strict=True):
        options = np.flatnonzero(extra <= slack)
        all_costs = (costs[:, None] + table.costs[options]).ravel()
        all_errors = (errors[:, None] + table.errors[options]).ravel()
        all_excess = (excess[:, None] + extra[options]).ravel()
        kept = np.flatnonzero((all_costs + cheapest <= budget) & (all_excess <= slack))
        kept = kept[np.lexsort((all_errors[kept], all_costs[kept]))]
        best_before = np.minimum.accumulate(np.append(np.inf, all_errors[kept][:-1]))
        kept = kept[all_errors[kept] < best_before]
        if len(kept) > limit:
            kept = kept[np.sort(np.append(0, 1 + all_excess[kept[1:]].argsort(kind="stable")[: limit - 1]))]
        costs, errors, excess = all_costs[kept], all_errors[kept], all_excess[kept]
        steps.append((kept // len(options), options[kept % len(options)]))
    best = int(errors.argmin())
    total = float(errors[best])
    chosen = []
    for before, index in reversed(steps):
        chosen.append(int(index[best]))
        best = int(before[best])
    return chosen[::-1], total


ALLOCATIONS = {"uniform": uniform, "global": water_filling}
