"""What the metric `loss` and the corrections are for: models that have learnt something."""

from dataclasses import replace

import pytest

from tests.trained import PARAMS, dense, digits, divergence, scored
from vtp.calibration.moments import moments
from vtp.calibration.watching import calibration_images
from vtp.lowrank import corrected as refitted
from vtp.lowrank import factorise
from vtp.measure import accuracy
from vtp.prune import choose_cut, corrected, slim
from vtp.scores import scores


@pytest.mark.parametrize("keep", [0.3, 0.5])
@pytest.mark.parametrize("method", ["svd", "qr_pivoted", "lu"])
def test_the_metric_loss_stays_nearest_to_the_predictions_on_images_never_seen(method: str, keep: float) -> None:
    flows = moments(dense(), calibration_images(digits().train.images, 500, 0), 0)
    found = {}
    for metric in ("weight", "activation", "loss"):
        params = replace(PARAMS.decompose, keep=keep, metric=metric)  # type: ignore[arg-type]
        found[metric] = divergence(dense(), factorise(dense(), method, params, flows)[0], digits().test.images)
    assert found["loss"] < 0.9 * found["activation"]
    assert found["loss"] < 0.5 * found["weight"]


def test_half_of_the_parameters_of_a_trained_model_go_at_hardly_a_loss() -> None:
    flows = moments(dense(), calibration_images(digits().train.images, 500, 0), 0)
    factorised, _ = factorise(dense(), "svd", replace(PARAMS.decompose, keep=0.5), flows)
    assert accuracy(dense(), digits().test) > 0.93
    assert accuracy(factorised, digits().test) > accuracy(dense(), digits().test) - 0.02


@pytest.mark.parametrize("rate", [0.4, 0.6])
def test_the_correction_brings_the_predictions_back_on_images_never_seen(rate: float) -> None:
    cut = choose_cut(scores(scored()), replace(PARAMS.prune, rate=rate), scored().head_dims())
    pruned = slim(scored(), cut.keep)
    fitted = corrected(pruned, scored(), calibration_images(digits().train.images, 1000, 0))
    before, after = (divergence(scored(), model, digits().test.images) for model in (pruned, fitted))
    assert after < 0.7 * before


@pytest.mark.parametrize("method", ["svd", "qr_full", "qr_pivoted", "cod", "lu", "cholesky"])
@pytest.mark.parametrize("keep", [0.2, 0.4])
def test_refitted_factors_come_nearer_to_the_predictions_on_images_never_seen(keep: float, method: str) -> None:
    images = digits().train.images[:1200]
    flows = moments(dense(), images, 0)
    params = replace(PARAMS.decompose, keep=keep)
    cut = factorise(dense(), method, params, flows)[0]
    fitted = refitted(cut, dense(), dense(), images, method, params, flows)
    before, after = (divergence(dense(), each, digits().test.images) for each in (cut, fitted))
    assert after < 0.8 * before
