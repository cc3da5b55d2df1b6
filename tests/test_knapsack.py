"""The knapsack: the optimum by brute force, by dynamic programming and by another solver, and the relaxation."""

import random
from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from vtp.knapsack import Floats, Table, relaxation, solve

# Few values, so that ties are common; and errors too small to count beside others, until those are gone.
COSTS = st.integers(0, 12).map(float)
ERRORS = st.sampled_from([0.0, 5e-324, 1e-200, 1e-9, 0.25, 0.5, 1.0, 1e9]) | st.floats(0, 1)


@st.composite
def tables(draw: st.DrawFn) -> list[Table]:
    """Up to four tables of choices in any order, some of which no one would take."""
    sizes = draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    return [
        Table(
            np.array(draw(st.lists(COSTS, min_size=size, max_size=size))),
            np.array(draw(st.lists(ERRORS, min_size=size, max_size=size))),
        )
        for size in sizes
    ]


def totals(drawn: list[Table], chosen: list[int]) -> tuple[float, float]:
    """(cost, error) of a choice from every table."""
    cost = sum(float(table.costs[index]) for table, index in zip(drawn, chosen, strict=True))
    return cost, sum(float(table.errors[index]) for table, index in zip(drawn, chosen, strict=True))


def least_cost(drawn: list[Table]) -> float:
    return float(sum(table.costs.min() for table in drawn))


@settings(max_examples=200)
@given(tables(), st.integers(0, 40))
def test_the_choice_is_the_best_of_all_combinations(drawn: list[Table], spare: int) -> None:
    budget = least_cost(drawn) + spare
    everything = [totals(drawn, list(each)) for each in product(*(range(len(t.costs)) for t in drawn))]
    cost, error = totals(drawn, solve(drawn, budget))
    assert cost <= budget
    best = min(error for cost, error in everything if cost <= budget)
    assert error == pytest.approx(best, rel=1e-12, abs=1e-300)


@given(tables(), st.floats(0.01, 5))
def test_what_no_choice_can_afford_is_refused(drawn: list[Table], lacking: float) -> None:
    with pytest.raises(ValueError, match="cheapest choices cost"):
        solve(drawn, least_cost(drawn) - lacking)


@given(st.lists(st.lists(st.floats(0.01, 10), min_size=1, max_size=4), min_size=2, max_size=5), st.randoms())
def test_a_budget_in_fractions_may_be_spent_whole(costs: list[list[float]], order: random.Random) -> None:
    """In whatever order the costs of the dearest choices are added up to it."""
    drawn = [Table(np.array(each), 1 / np.array(each)) for each in costs]
    dearest = [max(each) for each in costs]
    order.shuffle(dearest)
    assert totals(drawn, solve(drawn, sum(dearest)))[1] == sum(float(table.errors.min()) for table in drawn)


def curve(kind: str, size: int, rng: np.random.Generator) -> Floats:
    """Errors of the ranks 1, 2, …: of a smooth spectrum, of one that is not in order, or of no spectrum at all."""
    if kind == "smooth":
        return np.exp(-rng.uniform(0.01, 0.5) * np.arange(1.0, size + 1))
    if kind == "ragged":
        return np.sort(rng.exponential(size=size))[::-1]
    return rng.uniform(size=size)


def layers(kind: str, count: int, ranks: tuple[int, int], rng: np.random.Generator) -> list[Table]:
    """Ranks of layers of several sizes and weights, and a last, dear choice without error: staying dense."""
    found = []
    for _ in range(count):
        step, size = int(rng.integers(1, 8)), int(rng.integers(*ranks))
        errors = curve(kind, size, rng) * 10 ** rng.uniform(-2, 2)
        dense = float(rng.integers(step * size + 1, 2 * step * size + 2))
        found.append(Table(np.append(step * np.arange(1.0, size + 1), dense), np.append(errors, 0.0)))
    return found


def least_error(drawn: list[Table], budget: int) -> float:
    """The least total error by dynamic programming over whole costs."""
    least = np.zeros(budget + 1)
    for table in drawn:
        sums = np.full((len(table.costs), budget + 1), np.inf)
        for row, cost, error in zip(sums, table.costs.astype(int), table.errors, strict=True):
            row[cost:] = least[: max(0, budget + 1 - cost)] + error
        least = sums.min(0)
    return float(least[budget])


KINDS = st.sampled_from(["smooth", "ragged", "noise"])


@settings(max_examples=25)
@given(st.integers(0, 2**32), st.floats(0.05, 0.98), KINDS)
def test_the_choice_is_the_best_for_many_tables_of_any_curve(seed: int, keep: float, kind: str) -> None:
    drawn = layers(kind, 20, (5, 40), np.random.default_rng(seed))
    budget = int(keep * sum(table.costs.max() for table in drawn))
    assume(budget >= least_cost(drawn))
    cost, error = totals(drawn, solve(drawn, budget))
    assert cost <= budget
    assert error == pytest.approx(least_error(drawn, budget), rel=1e-12, abs=0)


@settings(max_examples=10)
@given(st.integers(0, 2**32), st.floats(0.3, 0.9), KINDS)
def test_another_solver_finds_no_better_choice_where_costs_are_not_whole(
    seed: int, keep: float, kind: str
) -> None:
    rng = np.random.default_rng(seed)
    drawn = [Table(t.costs * rng.uniform(0.5, 1), t.errors) for t in layers(kind, 8, (3, 12), rng)]
    budget = keep * sum(float(table.costs.max()) for table in drawn)
    cost, error = totals(drawn, solve(drawn, budget))
    assert cost <= budget * (1 + 2e-12)
    ends = np.cumsum([0, *(len(table.costs) for table in drawn)])
    one_of_each = csr_array((np.ones(ends[-1]), np.arange(ends[-1]), ends))
    affordable = LinearConstraint(np.concatenate([table.costs for table in drawn]), ub=budget)
    theirs = milp(
        np.concatenate([table.errors for table in drawn]),
        integrality=np.ones(ends[-1]),
        bounds=Bounds(0, 1),
        constraints=[LinearConstraint(one_of_each, 1, 1), affordable],
        options={"mip_rel_gap": 0.0},
    )
    assert error == pytest.approx(theirs.fun, abs=1e-5)  # the tolerance of that solver


@pytest.mark.parametrize("kind", ["smooth", "ragged", "noise"])
@pytest.mark.parametrize("keep", [0.2, 0.5, 0.9])
def test_of_72_tables_of_300_choices_the_best_is_between_the_relaxation_and_its_rounding(
    kind: str, keep: float
) -> None:
    drawn = layers(kind, 72, (300, 301), np.random.default_rng(0))
    budget = keep * sum(table.costs.max() for table in drawn)
    relaxed = relaxation(drawn)
    rounded = relaxed.errors[np.searchsorted(relaxed.costs, budget, side="right") - 1]
    cost, error = totals(drawn, solve(drawn, budget))
    assert cost <= budget
    assert np.interp(budget, *relaxed) * (1 - 1e-12) <= error <= rounded * (1 + 1e-12)


@given(tables())
def test_the_relaxation_is_convex_and_below_every_combination(drawn: list[Table]) -> None:
    relaxed = relaxation(drawn)
    slopes = np.diff(relaxed.errors) / np.diff(relaxed.costs)
    rounding = 1e-12 * sum(float(table.errors.max()) for table in drawn) + 1e-300
    assert (np.diff(slopes) >= -rounding).all()
    for each in product(*(range(len(table.costs)) for table in drawn)):
        cost, error = totals(drawn, list(each))
        assert np.interp(cost, *relaxed) <= error + rounding
