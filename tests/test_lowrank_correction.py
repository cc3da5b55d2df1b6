"""The correction after factorising: what earlier layers lost is made up for, in either form."""

from dataclasses import replace
from typing import Any, cast

import pytest
import torch

from tests.lowrank import settings_of
from tests.models import both, random_images, random_model, small_spec
from tests.test_lowrank import of_rank
from tests.test_prune_correction import fingerprint, output_of
from vtp.calibration.moments import moments
from vtp.lowrank import corrected, factorise
from vtp.models import Model

forms = pytest.mark.parametrize("form", ["pair", "pivot"])


def cut_and_fitted(
    model: Model, form: str, count: int, keep: float = 0.5, method: str = "svd", metric: str = "activation"
) -> tuple[Model, Model]:
    """The factorised model, and what the correction makes of it."""
    images = random_images(model.spec, count)
    params = replace(settings_of(keep=keep, metric=metric), form=cast(Any, form))
    flows = moments(model, images, 0)
    cut = factorise(model, method, params, flows)[0]
    before = fingerprint(cut)
    fitted = corrected(cut, model, model, images, method, params, flows)
    assert fitted.spec == cut.spec
    assert fingerprint(cut) == before
    return cut, fitted


@both
@forms
@pytest.mark.parametrize(("method", "metric"), [("svd", "loss"), ("qr_pivoted", "activation"), ("lu", "weight")])
def test_layers_come_nearer_to_what_they_gave(family: str, form: str, method: str, metric: str) -> None:
    model = random_model(small_spec(family), seed=0)
    images = random_images(model.spec, 200)
    cut, fitted = cut_and_fitted(model, form, 200, method=method, metric=metric)
    for name in cut.spec.factors:
        aim = output_of(model, name, images)
        errors = [float((output_of(each, name, images) - aim).norm()) for each in (cut, fitted)]
        assert errors[1] <= 1.01 * errors[0]


@forms
def test_batch_norms_give_the_mean_and_variance_that_they_gave(form: str) -> None:
    model = random_model(small_spec("resnet18"), seed=0)
    images = random_images(model.spec, 200)
    cut, fitted = cut_and_fitted(model, form, 200, keep=0.7)
    for name in cut.spec.factors:
        norm = name.replace("conv", "norm").replace("shortcut", "shortcut_norm")
        before, after, wanted = (output_of(each, norm, images) for each in (cut, fitted, model))
        torch.testing.assert_close(after.mean(0), wanted.mean(0), rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(after.std(0), wanted.std(0), rtol=1e-6, atol=1e-9)
        assert (before.std(0) / wanted.std(0) - 1).abs().max() > 0.01


@both
@forms
def test_a_model_that_lost_nothing_stays_as_it_is(family: str, form: str) -> None:
    model = of_rank(random_model(small_spec(family), seed=0), 2)
    images = random_images(model.spec, 60)
    cut, fitted = cut_and_fitted(model, form, 60, keep=0.7)
    with torch.no_grad():
        torch.testing.assert_close(fitted(images), cut(images), rtol=1e-9, atol=1e-9)
