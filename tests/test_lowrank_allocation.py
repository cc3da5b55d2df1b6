"""Ranks under a budget: which the least error allows, and how near to the budget the uniform ones come."""

from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from vtp.lowrank.allocation import Choices, uniform, water_filling

Units = dict[str, Choices]


@st.composite
def units(draw: st.DrawFn) -> Units:
    """Up to four units; each further rank costs the same more and leaves less error, or as much."""
    drawn = {}
    for index in range(draw(st.integers(1, 4))):
        step, ranks = draw(st.integers(1, 30)), draw(st.integers(0, 5))
        dense = step * ranks + draw(st.integers(1, step))
        errors = sorted(draw(st.lists(st.floats(0, 1), min_size=ranks, max_size=ranks)), reverse=True)
        drawn[f"unit {index}"] = Choices(step * np.arange(1.0, ranks + 1), np.array(errors), float(dense))
    return drawn


def options(unit: Choices) -> list[tuple[int | None, float, float]]:
    """(rank, cost, error) of every choice."""
    ranks = [(i + 1, unit.costs[i], unit.errors[i]) for i in range(len(unit.costs))]
    return [*ranks, (None, unit.dense, 0.0)]


def totals(drawn: Units, ranks: dict[str, int | None]) -> tuple[float, float]:
    """(cost, error) of a choice for every unit."""
    chosen = [next(o for o in options(unit) if o[0] == ranks[name]) for name, unit in drawn.items()]
    return sum(cost for _, cost, _ in chosen), sum(error for *_, error in chosen)


@settings(max_examples=40)
@given(units(), st.integers(0, 199))
def test_water_filling_is_the_optimum(drawn: Units, spare: int) -> None:
    dense = sum(unit.dense for unit in drawn.values())
    budget = sum(unit.least for unit in drawn.values()) + spare + 0.5  # costs are whole: no ties by rounding
    keep = budget / dense
    assume(keep <= 1)
    everything = [
        (sum(cost for _, cost, _ in combination), sum(error for *_, error in combination))
        for combination in product(*(options(unit) for unit in drawn.values()))
    ]
    ranks = water_filling(drawn, keep)
    assert ranks.keys() == drawn.keys()
    cost, error = totals(drawn, ranks)
    assert cost <= budget
    assert error == pytest.approx(min(error for cost, error in everything if cost <= budget), rel=1e-12)


@given(st.integers(1, 10_000), st.integers(1, 10_000))
def test_a_part_that_is_a_whole_number_of_parameters_may_be_spent_whole(part: int, more: int) -> None:
    """0.57 · 100 is less than 57 in float64."""
    unit = Choices(np.array([float(part)]), np.array([0.5]), float(part + more))
    other = Choices(np.array([1.0]), np.array([1.0]), 1e9)
    dense = unit.dense + other.dense
    assert water_filling({"unit": unit, "other": other}, (part + 1) / dense) == {"unit": 1, "other": 1}


@settings(max_examples=50)
@given(units(), st.floats(0.05, 1.0))
def test_uniform_is_within_half_a_step_of_the_budget(drawn: Units, keep: float) -> None:
    budget = keep * sum(unit.dense for unit in drawn.values())
    assume(sum(unit.least for unit in drawn.values()) <= budget)
    cost, _ = totals(drawn, uniform(drawn, keep))
    steps = [np.diff(np.append(unit.costs, unit.dense)).max(initial=0) for unit in drawn.values()]
    assert abs(cost - budget) <= max(steps) / 2 + 1e-9 * budget


@given(st.floats(0.05, 1.0), st.integers(2, 6))
def test_uniform_treats_equal_units_alike(keep: float, count: int) -> None:
    unit = Choices(10 * np.arange(1.0, 11), np.linspace(1, 0.1, 10), 105.0)
    assume(keep * unit.dense >= 10)
    equal = {str(i): unit for i in range(count)}
    for name, rank in uniform(equal, keep).items():
        cost, _ = totals({name: unit}, {name: rank})
        assert abs(cost - keep * unit.dense) <= 10 + 1e-9  # half a rank of its own, half a rank carried
