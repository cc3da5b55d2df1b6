"""Factorised models: budgets, exactness at full rank, and what happens where nothing can be gained."""

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.lowrank import EXACT, layer_outputs, product, settings_of, small, wide
from tests.models import both, random_images, random_model, small_spec
from vtp.calibration.moments import moments
from vtp.calibration.watching import output_rows
from vtp.cost import macs, parameters
from vtp.decompositions import METHODS, NotDecomposable, decompose
from vtp.errors import UserError
from vtp.lowrank import factorise
from vtp.lowrank.factorise import truncation_errors
from vtp.models import Model, factorisable, from_state
from vtp.models.vit.spec import BlockSpec, HeadSpec


@both
@pytest.mark.parametrize("allocation", ["uniform", "global"])
def test_what_saves_nothing_stays_dense_and_the_model_as_it_was(family: str, allocation: str) -> None:
    model, images = small(family), random_images(small(family).spec, 60)
    factorised, reports = factorise(
        model, "svd", settings_of(keep=1.0, allocation=allocation), moments(model, images, 0)
    )
    assert factorised.spec == model.spec
    assert all(report.rank is None and report.reason for report in reports)
    assert torch.equal(factorised(images), model(images))


@both
def test_the_method_none_changes_nothing(family: str) -> None:
    model, images = small(family), random_images(small(family).spec)
    factorised, reports = factorise(model, "none", settings_of(keep=0.2), moments(model, images, 0))
    assert torch.equal(factorised(images), model(images))
    assert [report.unit for report in reports] == list(factorisable(model))
    assert all(report.rank is None and "none" in report.reason for report in reports)


def of_rank(model: Model, rank: int) -> Model:
    """The model with the weight of every factorisable layer cut to `rank`."""
    state = dict(model.state_dict())
    for name in factorisable(model):
        weight = state[f"{name}.weight"]
        U, Sigma, V = torch.linalg.svd(weight.flatten(1), full_matrices=False)
        state[f"{name}.weight"] = ((U * Sigma)[:, :rank] @ V[:rank]).view_as(weight)
    return from_state(model.spec, state)


@both
@pytest.mark.parametrize("metric", ["weight", "activation", "loss"])
@pytest.mark.parametrize("method", [*EXACT, "cholesky"])
def test_a_rank_that_is_enough_changes_no_logits(family: str, metric: str, method: str) -> None:
    model = of_rank(small(family), 2)
    images = random_images(model.spec, 30)
    params = settings_of(keep=0.7, metric=metric, allocation="global")
    factorised, reports = factorise(model, method, params, moments(model, images, seed=0))
    assert all(report.rank is None or report.rank >= 2 for report in reports)
    assert any(report.rank is not None for report in reports)
    tolerance = 1e-4 if method == "cholesky" else 1e-8  # the Gram matrix squares the condition
    torch.testing.assert_close(factorised(images), model(images), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("method", [*EXACT, "cholesky"])
@pytest.mark.parametrize("count", [1, 2])
def test_fewer_images_than_dimensions_are_met_exactly(method: str, count: int) -> None:
    model, images = small("vit"), random_images(small("vit").spec, count)
    inputs, before = layer_outputs(model, images)
    factorised, reports = factorise(model, method, settings_of(keep=0.5), moments(model, images, 0))
    assert all(tensor.isfinite().all() for tensor in factorised.state_dict().values())
    for report in reports:
        assert np.isfinite([report.weight_error, report.output_error]).all()
        flowing = int(torch.linalg.matrix_rank(before[report.unit] - before[report.unit].mean(0)))
        if report.rank is not None and report.rank >= flowing:
            after = output_rows(
                factorisable(model)[report.unit], factorised.get_submodule(report.unit)(inputs[report.unit])
            )
            tolerance = 1e-5 if method == "cholesky" else 1e-9
            torch.testing.assert_close(after, before[report.unit], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("constant", [0.0, 1000.0])
def test_weights_of_a_dead_input_have_no_say(constant: float) -> None:
    state = dict(small("vit").state_dict())
    state["blocks.0.mlp.up.weight"][3] = 0
    state["blocks.0.mlp.up.bias"][3] = constant
    models = []
    for size in (0.0, 1e3):
        state["blocks.0.mlp.down.weight"] = state["blocks.0.mlp.down.weight"].clone()
        state["blocks.0.mlp.down.weight"][:, 3] = size
        model = from_state(small("vit").spec, state)
        flows = moments(model, random_images(model.spec, 50), 0)
        assert not flows["blocks.0.mlp.down"].inputs.covariance[3].any()
        models.append(factorise(model, "svd", settings_of(allocation="uniform"), flows)[0])
    weights = [product(model, "blocks.0.mlp.down") for model in models]
    torch.testing.assert_close(*weights, rtol=1e-9, atol=1e-12)


def test_where_evd_does_not_exist_the_layer_stays_dense_and_says_why() -> None:
    model = small("vit")  # no square layer
    images = random_images(model.spec)
    factorised, reports = factorise(model, "evd", settings_of(metric="weight"), moments(model, images, 0))
    for report in reports:
        assert report.rank is None
        with pytest.raises(NotDecomposable) as caught:
            decompose(factorisable(model)[report.unit].weight, "evd")
        assert report.reason == str(caught.value)
    assert torch.equal(factorised(images), model(images))


@cache
def middling() -> tuple[Model, Any]:
    """A model of which one rank is well under a hundredth."""
    block = BlockSpec((HeadSpec(24, 24),) * 4, 192)
    model = random_model(small_spec("vit", dim=96, head_dim=24, blocks=(block,) * 3), seed=2)
    return model, moments(model, random_images(model.spec, 100), 0)


@pytest.mark.parametrize("budget", ["parameters", "macs"])
@pytest.mark.parametrize("allocation", ["uniform", "global"])
@pytest.mark.parametrize("keep", [0.2, 0.5, 0.9])
def test_what_comes_out_is_the_budget_asked_for_and_the_reports_say_it(
    budget: str, allocation: str, keep: float
) -> None:
    model, flows = middling()
    params = settings_of(keep=keep, budget=budget, allocation=allocation)
    factorised, reports = factorise(model, "svd", params, flows)
    size = {report.unit: report.shape[0] * report.shape[1] for report in reports}
    dense = {
        "parameters": sum(size.values()),
        "macs": sum(size[name] * flows[name].positions for name in size),
    }
    spent = {cost: sum(getattr(report, cost) for report in reports) for cost in dense}
    assert spent[budget] == pytest.approx(keep * dense[budget], rel=0.01)
    if allocation == "global":
        assert spent[budget] <= keep * dense[budget]
    assert parameters(model.spec) - parameters(factorised.spec) == dense["parameters"] - spent["parameters"]
    assert macs(model.spec) - macs(factorised.spec) == dense["macs"] - spent["macs"]
    assert {report.unit: report.rank for report in reports if report.rank} == {
        name: factor.rank for name, factor in factorised.spec.factors.items()
    }


@both
def test_the_reports_count_what_the_model_has(family: str) -> None:
    model = small(family)
    factorised, reports = factorise(
        model, "svd", settings_of(keep=0.5), moments(model, random_images(model.spec), 0)
    )
    saved = sum(report.shape[0] * report.shape[1] - report.parameters for report in reports)
    assert saved > 0
    assert parameters(model.spec) - parameters(factorised.spec) == saved


def test_a_budget_below_rank_one_everywhere_is_one_sentence() -> None:
    model = small("vit")
    flows = moments(model, random_images(model.spec), 0)
    for allocation in ("uniform", "global"):
        with pytest.raises(UserError, match=r"^keep is 0\.001, but .*at least 0\.\d+"):
            factorise(model, "svd", settings_of(keep=0.001, allocation=allocation), flows)


@both
def test_the_model_given_stays_as_it_was_and_a_second_call_gives_the_same(family: str) -> None:
    model = small(family)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    flows = moments(model, random_images(model.spec), 0)
    first, second = (factorise(model, "cod", settings_of(), flows)[0].state_dict() for _ in range(2))
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in before.items())
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    for name, tensor in first.items():
        tensor.add_(1)  # shares no memory with the model it came from
        assert name not in before or torch.equal(model.state_dict()[name], before[name])


@pytest.mark.parametrize("method", EXACT)
def test_factors_are_balanced_and_no_better_than_the_optimum(method: str) -> None:
    model = small("vit")
    flows = moments(model, random_images(model.spec), 0)
    factorised, reports = factorise(
        model, method, settings_of(metric="weight", allocation="uniform", form="pair"), flows
    )
    state = factorised.state_dict()
    for report in reports:
        assert report.rank is not None
        left, right = (state[f"{report.unit}.{side}.weight"] for side in ("left", "right"))
        torch.testing.assert_close(left.T @ left, right @ right.T, rtol=1e-9, atol=1e-9)
        assert report.optimum_ratio is not None
        assert report.optimum_ratio >= 1 - 1e-9
        if method == "svd":
            assert report.optimum_ratio <= 1 + 1e-9


def test_the_errors_of_a_randomised_method_have_what_its_sketch_has_missed() -> None:
    model = wide()
    flows = moments(model, random_images(model.spec), 0)
    _, reports = factorise(model, "svd_randomized", settings_of(metric="weight", form="pair"), flows)
    assert all(report.optimum_ratio is None or report.optimum_ratio >= 1 - 1e-9 for report in reports)
    assert any(report.optimum_ratio and report.optimum_ratio > 1 + 1e-6 for report in reports)


@settings(max_examples=60)
@given(
    st.sampled_from(sorted(METHODS)),
    st.integers(1, 7),
    st.integers(1, 7),
    st.integers(0, 7),
    st.integers(0, 2**32),
)
def test_errors_are_those_of_the_truncations(method: str, m: int, n: int, rank: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    shape = (m, m) if method == "evd" else (m, n)
    matrix = torch.randn(shape[0], rank, generator=generator, dtype=torch.float64) @ torch.randn(
        rank, shape[1], generator=generator, dtype=torch.float64
    )
    matrix = matrix @ matrix.T if method == "evd" else matrix
    left, right = decompose(matrix, method).factors
    errors = truncation_errors(left, right)
    assert len(errors) == min(shape) + 1
    for r, error in enumerate(errors):
        direct = float((matrix - left[:, :r] @ right[:r]).norm() ** 2)
        assert float(error) == pytest.approx(direct, rel=1e-9, abs=1e-12 * float(left.norm() * right.norm()) ** 2)
