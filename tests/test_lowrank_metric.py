"""Metrics: each is least in what it minimises, and activation and loss keep the mean."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.lowrank import centred_norm, layer_outputs, product, settings_of, small
from tests.models import both, random_images, random_model, small_spec
from tests.trained import divergence
from vtp.calibration.moments import Moments, moments
from vtp.calibration.watching import output_rows
from vtp.lowrank import factorise
from vtp.models import factorisable


@both
@pytest.mark.parametrize("count", [1, 2, 40])
def test_svd_reaches_the_least_output_error_and_every_method_keeps_the_mean(family: str, count: int) -> None:
    model, images = small(family), random_images(small(family).spec, count)
    inputs, before = layer_outputs(model, images)
    flows = moments(model, images, 0)
    for method in ("svd", "qr_pivoted", "lu"):
        params = settings_of(allocation="uniform", keep=0.5)
        factorised, reports = factorise(model, method, params, flows)
        for report in reports:
            name, whole = report.unit, before[report.unit]
            if report.rank is None:
                continue
            with torch.no_grad():
                after = output_rows(factorisable(model)[name], factorised.get_submodule(name)(inputs[name]))
            torch.testing.assert_close(after.mean(0), whole.mean(0), rtol=1e-9, atol=1e-9)
            error, norm = centred_norm(after - whole), float(whole.norm())
            assert error == pytest.approx(report.output_error * centred_norm(whole), abs=1e-7 * norm)
            least = float(torch.linalg.svdvals(whole - whole.mean(0))[report.rank :].norm())
            if method == "svd":
                assert error == pytest.approx(least, abs=1e-9 * norm)
            assert error >= least - 1e-9 * norm


@both
def test_at_the_same_ranks_activation_is_never_worse_on_the_outputs_nor_weight_on_the_weights(family: str) -> None:
    model = small(family)
    flows = moments(model, random_images(model.spec, 40), 0)
    found = {
        metric: factorise(model, "svd", settings_of(metric=metric, allocation="uniform", budget="macs"), flows)[1]
        for metric in ("activation", "weight")
    }
    better = 0
    for fitted, plain in zip(found["activation"], found["weight"], strict=True):
        assert fitted.rank == plain.rank
        assert fitted.output_error <= plain.output_error * (1 + 1e-9)
        assert plain.weight_error <= fitted.weight_error * (1 + 1e-9)
        better += fitted.output_error < 0.99 * plain.output_error
    assert better > 0


def test_layers_that_move_no_loss_are_still_cut_as_well_as_can_be() -> None:
    model = small("vit")
    flows = {
        name: replace(flow, gradients=torch.zeros_like(flow.gradients))
        for name, flow in moments(model, random_images(model.spec, 40), 0).items()
    }
    by_loss, by_activation = (
        factorise(model, "svd", settings_of(metric=metric, allocation="uniform", keep=0.6), flows)[1]
        for metric in ("loss", "activation")
    )
    for silent, fitted in zip(by_loss, by_activation, strict=True):
        assert silent.output_error == pytest.approx(fitted.output_error, rel=1e-6)


@pytest.mark.parametrize("method", ["svd", "qr_pivoted", "cod", "cholesky", "lu"])
def test_no_ratio_to_an_optimum_that_is_but_rounding(method: str) -> None:
    model = small("vit")
    flows = moments(model, random_images(model.spec, 1), 0)
    _, reports = factorise(model, method, settings_of(metric="activation", allocation="uniform", keep=0.8), flows)
    ratios = [report.optimum_ratio for report in reports if report.rank is not None]
    assert None in ratios
    assert all(ratio is None or ratio >= 1 - 1e-6 for ratio in ratios)


METRICS = ("weight", "activation", "loss")


def added_loss(moments: Moments, error: Tensor) -> float:
    """Twice the loss that an error of a weight adds, in the Kronecker-factored approximation: tr(G E C Eᵀ)."""
    return float(((moments.gradients @ error @ moments.inputs.covariance) * error).sum())


@both
def test_at_the_same_ranks_the_metric_loss_adds_the_least_loss(family: str) -> None:
    model = small(family)
    flows = moments(model, random_images(model.spec, 300), 0)
    found = {
        metric: factorise(model, "svd", settings_of(metric=metric, allocation="uniform", budget="macs"), flows)
        for metric in METRICS
    }
    better = 0
    for name, layer in factorisable(model).items():
        weight = layer.weight.detach().flatten(1)
        losses = {m: added_loss(flows[name], weight - product(found[m][0], name)) for m in METRICS}
        assert losses["loss"] <= 1.001 * min(losses.values())  # what no gradient has seen counts a thousandth
        better += losses["loss"] < 0.99 * losses["activation"]
    assert better > 0


@both
def test_the_metric_loss_stays_closest_to_the_predictions_on_new_images(family: str) -> None:
    models = [random_model(small_spec(family), seed) for seed in range(6)]
    found = dict.fromkeys(METRICS, 0.0)
    for model in models:
        flows, new = moments(model, random_images(model.spec, 300), 0), random_images(model.spec, 300, seed=1)
        for metric in METRICS:
            params = settings_of(metric=metric, keep=0.7)
            found[metric] += divergence(model, factorise(model, "svd", params, flows)[0], new)
    assert found["loss"] < 0.9 * min(found["activation"], found["weight"])
