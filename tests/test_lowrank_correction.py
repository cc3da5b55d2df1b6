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


def factorised(model: Model, form: str, count: int, keep: float = 0.5) -> Model:
    params = replace(settings_of(keep=keep), form=cast(Any, form))
    return factorise(model, "svd", params, moments(model, random_images(model.spec, count), 0))[0]


@both
@forms
def test_layers_come_nearer_to_what_they_gave(family: str, form: str) -> None:
    model = random_model(small_spec(family), seed=0)
    cut, images = factorised(model, form, 200), random_images(model.spec, 200)
    before = fingerprint(cut)
    fitted = corrected(cut, model, images)
    assert fitted.spec == cut.spec
    assert fingerprint(cut) == before
    for name in cut.spec.factors:
        aim = output_of(model, name, images)
        errors = [float((output_of(each, name, images) - aim).norm()) for each in (cut, fitted)]
        assert errors[1] <= 1.01 * errors[0]


@both
@forms
def test_a_model_that_lost_nothing_stays_as_it_is(family: str, form: str) -> None:
    model = of_rank(random_model(small_spec(family), seed=0), 2)
    cut, images = factorised(model, form, 60, keep=0.7), random_images(model.spec, 60)
    fitted = corrected(cut, model, images)
    with torch.no_grad():
        torch.testing.assert_close(fitted(images), cut(images), rtol=1e-9, atol=1e-9)
