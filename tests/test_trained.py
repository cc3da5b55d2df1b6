"""What the metric `loss` and the corrections are for: models that have learnt something."""

from dataclasses import replace
from functools import cache

import pytest
from torch import Tensor

from tests.trained import PARAMS, dense, digits, divergence, scored
from vtp.calibration.moments import Moments, moments
from vtp.calibration.watching import calibration_images
from vtp.lowrank import corrected as refitted
from vtp.lowrank import factorise
from vtp.measure import accuracy
from vtp.prune import choose_cut, corrected, slim
from vtp.scores import scores


def images(count: int) -> Tensor:
    return calibration_images(digits().train.images, count, 0)


@cache
def flows(count: int) -> dict[str, Moments]:
    return moments(dense(), images(count), 0)


@pytest.mark.parametrize("keep", [0.3, 0.5])
@pytest.mark.parametrize("method", ["svd", "qr_pivoted", "lu"])
def test_the_metric_loss_stays_nearest_to_the_predictions_on_images_never_seen(method: str, keep: float) -> None:
    found = {}
    for metric in ("weight", "activation", "loss"):
        params = replace(PARAMS.decompose, keep=keep, metric=metric)  # type: ignore[arg-type]
        found[metric] = divergence(
            dense(), factorise(dense(), method, params, flows(500))[0], digits().test.images
        )
    assert found["loss"] < 0.9 * found["activation"]
    assert found["loss"] < 0.5 * found["weight"]


def test_half_of_the_parameters_of_a_trained_model_go_at_hardly_a_loss() -> None:
    factorised, _ = factorise(dense(), "svd", replace(PARAMS.decompose, keep=0.5), flows(500))
    assert accuracy(dense(), digits().test) > 0.93
    assert accuracy(factorised, digits().test) > accuracy(dense(), digits().test) - 0.02


@pytest.mark.parametrize("rate", [0.4, 0.6])
def test_the_correction_brings_the_predictions_back_on_images_never_seen(rate: float) -> None:
    cut = choose_cut(scores(scored()), replace(PARAMS.prune, rate=rate), scored().head_dims())
    pruned = slim(scored(), cut.keep)
    fitted = corrected(pruned, scored(), images(1000))
    before, after = (divergence(scored(), model, digits().test.images) for model in (pruned, fitted))
    assert after < 0.7 * before


@pytest.mark.parametrize("method", ["svd", "qr_full", "qr_pivoted", "cod", "lu", "cholesky"])
@pytest.mark.parametrize("keep", [0.2, 0.4])
def test_refitted_factors_come_nearer_to_the_predictions_on_images_never_seen(keep: float, method: str) -> None:
    params = replace(PARAMS.decompose, keep=keep)
    cut = factorise(dense(), method, params, flows(1200))[0]
    fitted = refitted(cut, dense(), dense(), images(1200), method, params, flows(1200))
    before, after = (divergence(dense(), each, digits().test.images) for each in (cut, fitted))
    assert after < 0.8 * before
