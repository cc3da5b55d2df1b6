"""Ranks under a budget: the optimum by brute force, and how near to the budget they come."""

from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from vtp.lowrank.allocation import Choices, uniform, water_filling

Layers = dict[str, Choices]


@st.composite
def layers(draw: st.DrawFn) -> Layers:
    """Up to four layers; each further rank costs the same more and leaves less error, or as much."""
    drawn = {}
    for index in range(draw(st.integers(1, 4))):
        step, ranks = draw(st.integers(1, 30)), draw(st.integers(0, 5))
        dense = step * ranks + draw(st.integers(1, step))
        errors = sorted(draw(st.lists(st.floats(0, 1), min_size=ranks, max_size=ranks)), reverse=True)
        drawn[f"layer {index}"] = Choices(step * np.arange(1.0, ranks + 1), np.array(errors), float(dense))
    return drawn


def options(layer: Choices) -> list[tuple[int | None, float, float]]:
    """(rank, cost, error) of every choice."""
    ranks = [(i + 1, layer.costs[i], layer.errors[i]) for i in range(len(layer.costs))]
    return [*ranks, (None, layer.dense, 0.0)]


def totals(drawn: Layers, ranks: dict[str, int | None]) -> tuple[float, float]:
    """(cost, error) of a choice for every layer."""
    chosen = [next(o for o in options(layer) if o[0] == ranks[name]) for name, layer in drawn.items()]
    return sum(cost for _, cost, _ in chosen), sum(error for *_, error in chosen)


@settings(max_examples=40)
@given(layers(), st.integers(0, 199))
def test_water_filling_is_the_optimum(drawn: Layers, spare: int) -> None:
    dense = sum(layer.dense for layer in drawn.values())
    budget = sum(layer.least for layer in drawn.values()) + spare + 0.5  # costs are whole: no ties by rounding
    keep = budget / dense
    assume(keep <= 1)
    everything = [
        (sum(cost for _, cost, _ in combination), sum(error for *_, error in combination))
        for combination in product(*(options(layer) for layer in drawn.values()))
    ]
    within = [error for cost, error in everything if cost <= budget]
    ranks = water_filling(drawn, keep)
    assert ranks.keys() == drawn.keys()
    cost, error = totals(drawn, ranks)
    assert cost <= budget
    assert error == pytest.approx(min(within), rel=1e-8, abs=1e-12)


def least_error(drawn: Layers, budget: int) -> float:
    """The least total error by dynamic programming over whole costs."""
    least = np.zeros(budget + 1)
    for layer in drawn.values():
        sums = np.full((len(layer.costs) + 1, budget + 1), np.inf)
        for row, (_, cost, error) in zip(sums, options(layer), strict=True):
            row[int(cost) :] = least[: max(0, budget + 1 - int(cost))] + error
        least = sums.min(0)
    return float(least[budget])


@settings(max_examples=25)
@given(st.integers(0, 2**32), st.floats(0.1, 0.95), st.sampled_from(["smooth", "ragged", "noise"]))
def test_water_filling_is_the_optimum_for_many_layers_of_any_curve(seed: int, keep: float, kind: str) -> None:
    rng = np.random.default_rng(seed)
    drawn = {}
    for index in range(20):
        step, ranks = int(rng.integers(1, 8)), int(rng.integers(5, 40))
        if kind == "smooth":
            errors = np.exp(-rng.uniform(0.01, 0.5) * np.arange(1.0, ranks + 1)) * 10 ** rng.uniform(-3, 3)
        elif kind == "ragged":
            errors = np.sort(rng.exponential(size=ranks))[::-1].copy()
        else:
            errors = rng.uniform(size=ranks)
        drawn[f"layer {index}"] = Choices(step * np.arange(1.0, ranks + 1), errors, float(step * (ranks + 1)))
    budget = int(keep * sum(layer.dense for layer in drawn.values()))
    assume(budget >= sum(layer.least for layer in drawn.values()))
    ranks_found = water_filling(drawn, (budget + 0.5) / sum(layer.dense for layer in drawn.values()))
    cost, error = totals(drawn, ranks_found)
    assert cost <= budget
    assert error == pytest.approx(least_error(drawn, budget), rel=1e-8, abs=1e-12)


@pytest.mark.parametrize("size", [5e-324, 1e-300, 1e100])
def test_water_filling_ends_for_errors_of_any_size(size: float) -> None:
    layer = Choices(np.array([1.0, 2.0]), np.array([size, size / 2]), 3.0)
    cost, _ = totals({"a": layer, "b": layer}, water_filling({"a": layer, "b": layer}, 0.5))
    assert cost <= 3


@settings(max_examples=50)
@given(layers(), st.floats(0.05, 1.0))
def test_uniform_is_within_one_rank_of_the_budget(drawn: Layers, keep: float) -> None:
    budget = keep * sum(layer.dense for layer in drawn.values())
    assume(sum(layer.least for layer in drawn.values()) <= budget)
    cost, _ = totals(drawn, uniform(drawn, keep))
    steps = [layer.costs[0] for layer in drawn.values() if len(layer.costs)]
    assert abs(cost - budget) <= max(steps, default=1e-9 * budget)


@given(st.floats(0.05, 1.0), st.integers(2, 6))
def test_uniform_treats_equal_layers_alike(keep: float, count: int) -> None:
    layer = Choices(10 * np.arange(1.0, 11), np.linspace(1, 0.1, 10), 105.0)
    assume(keep * layer.dense >= 10)
    equal = {str(i): layer for i in range(count)}
    for name, rank in uniform(equal, keep).items():
        cost, _ = totals({name: layer}, {name: rank})
        assert abs(cost - keep * layer.dense) <= 10 + 1e-9  # half a rank of its own, half a rank carried
