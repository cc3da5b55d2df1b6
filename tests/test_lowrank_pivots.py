"""The pivot form: the same matrix for fewer numbers, with coefficients that are bounded."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.lowrank import settings_of, small
from tests.models import both, random_images, train_a_step
from vtp.calibration.moments import moments
from vtp.checkpoint import load, save
from vtp.cost import macs, parameters
from vtp.lowrank import factorise
from vtp.lowrank.pivots import LARGEST, pivot_form
from vtp.lowrank.report import UnitReport
from vtp.models import Model, from_state


def matrix(m: int, n: int, scale: float, seed: int) -> Tensor:
    """Gaussian, its rows on scales from 1 to `scale`."""
    noise = torch.randn(m, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return noise * scale ** torch.linspace(0, 1, m, dtype=torch.float64)[:, None]


def rebuilt(pivots: Tensor, mix: Tensor, order: Tensor) -> Tensor:
    return torch.cat([pivots, mix @ pivots])[order.long()]


@given(
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    st.integers(1, 12),
    st.sampled_from([1e-6, 1.0, 1e6]),
    st.integers(0, 99),
)
@settings(max_examples=100)
def test_it_is_the_same_matrix_with_bounded_coefficients(
    shape: tuple[int, int], rank: int, scale: float, seed: int
) -> None:
    m, n = shape
    rank = min(m, n, rank)
    left, right = matrix(m, rank, scale, seed), matrix(rank, n, 1.0, seed + 1)
    pivots, mix, order = pivot_form(left, right)
    assert (pivots.shape, mix.shape) == ((rank, n), (m - rank, rank))
    assert order.sort().values.tolist() == list(range(m))
    assert mix.abs().max() <= LARGEST if mix.numel() else rank == m
    product = left @ right
    size = float(product.norm())
    torch.testing.assert_close(rebuilt(pivots, mix, order), product, rtol=0, atol=1e-13 * size)
    # Rows of the product itself, but for the order in which a library adds up where it multiplies fewer rows.
    assert all((product - row).norm(dim=1).min() <= 1e-15 * rank * size for row in pivots)


@given(st.integers(2, 10), st.integers(1, 9), st.integers(0, 99))
@example(10, 1, 0)
@settings(max_examples=50)
def test_factors_of_less_than_their_rank_are_no_worse(m: int, rank: int, seed: int) -> None:
    rank = min(rank, m - 1)
    left = matrix(m, 1, 1.0, seed) @ matrix(1, rank, 1.0, seed + 1)  # of rank one
    left[0] = 0
    right = matrix(rank, m, 1.0, seed + 2)
    pivots, mix, order = pivot_form(left, right)
    assert mix.abs().max() <= LARGEST
    torch.testing.assert_close(rebuilt(pivots, mix, order), left @ right, rtol=1e-12, atol=1e-12)


def test_rows_are_swapped_until_no_coefficient_is_too_large() -> None:
    # Kahan's matrix: pivoted QR leaves its columns as they stand, and its coefficients grow exponentially.
    c, size = 0.4, 40
    R = torch.eye(size, dtype=torch.float64) - c * torch.ones(size, size, dtype=torch.float64).triu(1)
    R = (1 - c**2) ** (torch.arange(size, dtype=torch.float64)[:, None] / 2) * R
    R = R * (1 - 1e-9) ** torch.arange(size)
    left, right = R[: size - 1].T.contiguous(), torch.eye(size - 1, dtype=torch.float64)
    assert torch.linalg.solve(left[:-1], left[-1:], left=False).abs().max() > 100
    pivots, mix, order = pivot_form(left, right)
    assert mix.abs().max() <= LARGEST
    torch.testing.assert_close(rebuilt(pivots, mix, order), left @ right, rtol=0, atol=1e-12)


def of_form(model: Model, form: str, **changes: Any) -> tuple[Model, list[UnitReport]]:
    params = replace(settings_of(**changes), form=cast(Any, form))
    return factorise(model, "svd", params, moments(model, random_images(model.spec, 60), 0))


def as_pairs(model: Model) -> Model:
    """The same model with both factors of each layer stored."""
    state, factors = dict(model.state_dict()), {}
    for name, factor in model.spec.factors.items():
        for part in ("mix", "order"):
            del state[f"{name}.left.{part}"]
        left: Tensor = model.get_submodule(f"{name}.left").weight.detach()  # type: ignore[operator]
        shape = left.shape + (1,) * (state[f"{name}.right.weight"].ndim - 2)
        state[f"{name}.left.weight"] = left.reshape(shape)
        factors[name] = replace(factor, form="pair")
    return from_state(replace(model.spec, factors=factors), state)


@both
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_the_model_gives_what_that_of_pairs_does(family: str, dtype: torch.dtype, tolerance: float) -> None:
    pivot, _ = of_form(small(family), "pivot", keep=0.5)
    pairs, images = as_pairs(pivot).to(dtype), random_images(pivot.spec)
    assert parameters(pivot.spec) < parameters(pairs.spec)
    assert macs(pivot.spec) == macs(pairs.spec)
    with torch.no_grad():
        torch.testing.assert_close(pivot.to(dtype)(images), pairs(images), rtol=tolerance, atol=tolerance)


@both
@pytest.mark.parametrize("keep", [0.3, 0.5, 0.8])
def test_for_as_many_parameters_the_ranks_are_higher(family: str, keep: float) -> None:
    model = small(family)
    ranks = {}
    for form in ("pair", "pivot"):
        found, reports = of_form(model, form, keep=keep, allocation="uniform")
        ranks[form] = [report.rank or min(report.shape) for report in reports]
        dense = parameters(model.spec) - sum(report.parameters_dense for report in reports)
        assert parameters(found.spec) == dense + sum(report.parameters for report in reports)
        for report in reports:
            assert report.parameters <= report.parameters_dense
            assert report.macs <= report.macs_dense
    assert sum(ranks["pivot"]) > sum(ranks["pair"])


def test_what_is_not_said_of_the_form_is_what_costs_less() -> None:
    for budget, form in (("parameters", "pivot"), ("macs", "pair")):
        model, _ = of_form(small("vit"), "auto", budget=budget)
        assert {factor.form for factor in model.spec.factors.values()} == {form}


@both
def test_it_can_be_saved_and_trained(family: str, tmp_path: Path) -> None:
    model, _ = of_form(small(family), "pivot", keep=0.5)
    images = random_images(model.spec, 4)
    save(model, tmp_path / "model")
    loaded = load(tmp_path / "model")
    assert loaded.spec == model.spec
    assert torch.equal(loaded(images), model(images))
    train_a_step(loaded, images)
    assert not torch.equal(loaded(images), model(images))
    for name, tensor in loaded.state_dict().items():
        if name.endswith((".left.mix", ".left.order")):
            assert torch.equal(tensor, model.state_dict()[name]) == name.endswith("order")
