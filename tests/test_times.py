"""What layers cost in time, measured or given, and ranks that keep a part of a model's time."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.lowrank import invented, settings_of, wide
from tests.models import both, random_images, random_model, small_spec
from vtp.calibration.moments import moments
from vtp.errors import UserError
from vtp.inference import for_inference, parts_of
from vtp.inference.times import measured
from vtp.lowrank import factorise
from vtp.models import factorisable
from vtp.times import STEP, LayerTimes, Times, load_times, save_times


@st.composite
def layer_times(draw: st.DrawFn) -> LayerTimes:
    """Of up to five measured ranks, whose times rise; they may end above that of the dense layer."""
    ranks = sorted(draw(st.lists(st.integers(1, 20).map(lambda n: STEP * n), max_size=5, unique=True)))
    times = sorted(draw(st.lists(st.floats(0.001, 10), min_size=len(ranks), max_size=len(ranks))))
    return LayerTimes(draw(st.floats(0.001, 10)), tuple(ranks), tuple(times))


@given(layer_times())
def test_a_rank_costs_what_the_next_step_does_and_more_ranks_cost_no_less(times: LayerTimes) -> None:
    ranks = np.arange(1.0, 25 * STEP)
    costs = times.of(ranks)
    last = times.ranks[-1] if times.ranks else 0
    assert (np.diff(costs[:last]) >= 0).all()
    for rank, cost in zip(times.ranks, times.factors, strict=True):
        assert (costs[rank - STEP : rank] == cost).all()
    assert (costs[last:] == times.dense).all()


def test_what_was_measured_comes_back_from_its_file(tmp_path: Path) -> None:
    times = Times(16, 3.5, {"a": LayerTimes(1.0, (16, 32), (0.25, 0.5)), "b": LayerTimes(0.5, (), ())}, 4.5)
    for given_times in (times, None):
        save_times(given_times, tmp_path / "times.json")
        assert load_times(tmp_path / "times.json") == given_times


@both
def test_every_layer_has_its_part_of_the_inference_form(family: str) -> None:
    model = random_model(small_spec(family), 0)
    parts = parts_of(for_inference(model), factorisable(model))
    whole: dict[torch.nn.Module, float] = {}
    for shared in parts.values():
        for module, share in shared:
            whole[module] = whole.get(module, 0.0) + share
    assert list(whole.values()) == pytest.approx([1.0] * len(whole))
    weights = {id(layer.weight): layer for layer in factorisable(model).values()}
    assert sum(module.weight.numel() for module in modules_of(whole)) == sum(
        layer.weight.numel() for layer in weights.values()
    )


def modules_of(whole: dict[torch.nn.Module, float]) -> list[torch.nn.Linear]:
    kinds = (torch.nn.Linear, torch.nn.Conv2d)
    return [part for module in whole for part in module.modules() if isinstance(part, kinds)]  # type: ignore[misc]


def test_a_model_is_timed_layer_by_layer() -> None:
    model = wide().float()
    times = measured(model, 2, model)
    assert times.layers.keys() == factorisable(model).keys()
    for name, layer in times.layers.items():  # ranks that save products: below 64 of 128 × 128, 71.1 of 128 × 160
        assert layer.ranks == ((16, 32, 48, 64) if ".mlp." in name else (16, 32, 48))
        assert all(milliseconds > 0 for milliseconds in (layer.dense, *layer.factors))
    assert times.predicted(dict.fromkeys(times.layers)) == times.total


@pytest.mark.parametrize("allocation", ["uniform", "global"])
@pytest.mark.parametrize("keep", [0.5, 0.75, 1.0])
def test_ranks_keep_a_part_of_the_whole_models_time(keep: float, allocation: str) -> None:
    model = wide()
    times, flows = invented(model), moments(model, random_images(model.spec, 64), 0)
    plan = settings_of(budget="latency", keep=keep, allocation=allocation)
    small, units = factorise(model, "svd", plan, flows, times)
    ranks = {unit.unit: unit.rank for unit in units}
    assert keep * times.total - 1 < times.predicted(ranks) <= keep * times.total
    assert {rank % STEP for rank in ranks.values() if rank is not None} <= {0}
    assert {factor.form for factor in small.spec.factors.values()} <= {"pair"}


def test_a_time_that_cannot_be_reached_or_was_not_measured_is_one_sentence() -> None:
    model = wide()
    flows = moments(model, random_images(model.spec, 64), 0)
    plan = settings_of(budget="latency", keep=0.1)
    # twelve layers, each at rank 16: 10 + 12 of 10 + 4 · 12
    with pytest.raises(UserError, match=r"keep is 0\.1, but must be at least 0\.3794 for this model"):
        factorise(model, "svd", plan, flows, invented(model))
    with pytest.raises(UserError, match="budget is latency, but no batch of images was timed"):
        factorise(model, "svd", plan, flows)


def test_units_that_cannot_be_factorised_stay_in_the_whole() -> None:
    """Of layers without a measured rank none is cut; the others pay for them."""
    model = wide()
    times, flows = invented(model), moments(model, random_images(model.spec, 64), 0)
    fixed = {name: LayerTimes(4.0, (), ()) for name in times.layers if ".attention." in name}
    times = replace(times, layers={**times.layers, **fixed})
    _, units = factorise(model, "svd", settings_of(budget="latency", keep=0.9), flows, times)
    ranks = {unit.unit: unit.rank for unit in units}
    assert all(ranks[name] is None for name in fixed)
    assert 0.9 * times.total - 1 < times.predicted(ranks) <= 0.9 * times.total
