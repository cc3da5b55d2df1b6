"""The multiple-choice knapsack problem: one choice from each table, of least total error, within a budget.

First the linear relaxation (Sinha & Zoltners, Operations Research 27, 1979), in which the choices of a table may
be mixed: along the convex hulls of all tables, the steps that remove most error for their cost are taken until the
next one would pass the budget. Up to there it is a real choice; with a part of that step it is a lower bound.

What lies between the two is searched, table after table. Of all sums of choices those go on that no other one
beats in cost and error, and from which the relaxation of the tables to come still leads to less than the best
choice known. That loses nothing, and it is fast: rounding the relaxation down makes a good choice of every sum.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

ROUNDING = 1 + 1e-12  # of sums of costs or errors, none of which is negative


class Table(NamedTuple):
    """What can be chosen, in any order: the cost and the error of each choice. Whole costs add up exactly."""

    costs: Floats
    errors: Floats


def solve(tables: Sequence[Table], budget: float) -> list[int]:
    """Return which choice to take from each table: of all within the budget, one of least total error.

    That it is the least is proven but for the rounding of sums in float64: a millionth of a millionth more than
    `budget` counts as within it. Raises ValueError if even the cheapest choices cost more.
    """
    budget *= ROUNDING
    useful = [_undominated(table) for table in tables]
    tables = [_pick(table, indices) for table, indices in zip(tables, useful, strict=True)]
    hulls = [_hull(table) for table in tables]
    relaxed, owners = _merged([_pick(table, hull) for table, hull in zip(tables, hulls, strict=True)])
    steps = int(np.searchsorted(relaxed.costs, budget, side="right")) - 1
    if steps < 0:
        raise ValueError(f"the budget is {budget:g}, but the cheapest choices cost {relaxed.costs[0]:g}")
    taken = np.bincount(owners[:steps], minlength=len(tables))
    chosen = [int(hull[count]) for hull, count in zip(hulls, taken, strict=True)]
    if steps < len(owners):
        price = -float(np.diff(relaxed.errors)[steps] / np.diff(relaxed.costs)[steps])
        gap = price * (budget - relaxed.costs[steps])
        # Of what a choice adds to error + price · cost above the least in its table, any total has as much above
        # the lower bound.
        priced = [table.errors + price * table.costs for table in tables]
        options = [np.flatnonzero(values <= (values.min() + gap) * ROUNDING) for values in priced]
        left = [_pick(table, indices) for table, indices in zip(tables, options, strict=True)]
        found = _search(left, budget, float(relaxed.errors[steps]))
        if found is not None:
            chosen = [int(indices[index]) for indices, index in zip(options, found, strict=True)]
    return [int(indices[index]) for indices, index in zip(useful, chosen, strict=True)]


def relaxation(tables: Sequence[Table]) -> Table:
    """Return costs and errors of the linear relaxation where it bends: a lower bound for every budget."""
    useful = [_pick(table, _undominated(table)) for table in tables]
    return _merged([_pick(table, _hull(table)) for table in useful])[0]


def _search(tables: Sequence[Table], budget: float, known: float) -> Indices | None:
    """Return the choices of least error within the budget, of which one of error `known` is known.

    None where that one is the best but for rounding. Tables of coarse steps come first: to those of fine steps,
    which are left, the relaxation is close.
    """
    hulls = [_pick(table, _hull(table)) for table in tables]
    coarseness = [float(np.diff(hull.costs).max(initial=0.0)) for hull in hulls]
    order = np.argsort(coarseness, kind="stable")[::-1]
    to_come = [Table(np.zeros(1), np.zeros(1))]
    for index in order[:0:-1]:
        to_come.append(_merged([hulls[index], to_come[-1]])[0])
    sums, trail = to_come[0], []
    for index, rest in zip(order, reversed(to_come), strict=True):
        costs = (sums.costs[:, None] + tables[index].costs).ravel()
        errors = (sums.errors[:, None] + tables[index].errors).ravel()
        affordable = np.flatnonzero(budget - costs >= rest.costs[0])
        costs, errors = costs[affordable], errors[affordable]
        rounded, relaxed = _completed(rest, budget - costs)
        known = min(known, float((errors + rounded).min(initial=np.inf)))
        open_ = np.flatnonzero(errors + relaxed <= known * ROUNDING)
        kept = open_[_undominated(Table(costs[open_], errors[open_]))]
        if not len(kept):
            return None
        sums = Table(costs[kept], errors[kept])
        trail.append(np.divmod(affordable[kept], len(tables[index].costs)))
    chosen, place = np.zeros(len(tables), np.intp), -1  # the last of all sums has the least error
    for index, (before, option) in zip(order[::-1], reversed(trail), strict=True):
        chosen[index], place = option[place], before[place]
    return chosen


def _completed(hull: Table, budgets: Floats) -> tuple[Floats, Floats]:
    """Return the errors on the hull at the last vertex within each budget, and between the vertices at the budget.

    Interpolation starts at the vertex of less error: beside the other one rounding would hide it.
    """
    vertex = np.searchsorted(hull.costs, budgets, side="right") - 1
    next_vertex = np.minimum(vertex + 1, len(hull.costs) - 1)
    prices = np.append(-np.diff(hull.errors) / np.diff(hull.costs), 0.0)
    relaxed = hull.errors[next_vertex] + prices[vertex] * (hull.costs[next_vertex] - budgets)
    return hull.errors[vertex], relaxed


def _pick(table: Table, indices: Indices) -> Table:
    return Table(table.costs[indices], table.errors[indices])


def _undominated(table: Table) -> Indices:
    """Return the choices that no other one beats, by rising cost and falling error."""
    order = np.lexsort((table.errors, table.costs))
    errors = table.errors[order]
    return order[errors < np.minimum.accumulate(np.append(np.inf, errors[:-1]))]


def _hull(table: Table) -> Indices:
    """Return the vertices of the lower convex hull of choices in the order of `_undominated`."""
    costs, errors = table.costs.tolist(), table.errors.tolist()
    hull: list[int] = []
    slopes: list[float] = []  # that lead to each vertex
    for index, (cost, error) in enumerate(zip(costs, errors, strict=True)):
        slope = -np.inf
        while hull and slopes[-1] > (slope := (error - errors[hull[-1]]) / (cost - costs[hull[-1]])):
            del hull[-1], slopes[-1]
        hull.append(index)
        slopes.append(slope)
    return np.array(hull)


def _merged(hulls: Sequence[Table]) -> tuple[Table, Indices]:
    """Return the hull of all sums of a point from each hull, and which hull each of its steps belongs to."""
    costs = np.concatenate([np.diff(hull.costs) for hull in hulls])
    errors = np.concatenate([np.diff(hull.errors) for hull in hulls])
    owners = np.repeat(np.arange(len(hulls)), [len(hull.costs) - 1 for hull in hulls])
    order = (errors / costs).argsort(kind="stable")
    cheapest, least = sum(hull.costs[0] for hull in hulls), sum(hull.errors[-1] for hull in hulls)
    from_first = np.cumsum(np.append(cheapest, costs[order]))
    from_last = np.cumsum(np.append(least, -errors[order][::-1]))[::-1]  # small errors first, for their rounding
    return Table(from_first, from_last), owners[order]
