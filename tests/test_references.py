"""Which model what is cut is refitted to: models that differ in each role, on digits that they have learnt."""

import torch

from tests.lowrank import settings_of
from tests.trained import dense, digits, divergence, scored
from vtp.budget import Budget
from vtp.calibration.moments import moments
from vtp.lowrank import corrected as corrected_factors
from vtp.lowrank import factorise
from vtp.models import Model
from vtp.prune import Narrowing, corrected, keep_masks, shared, slim, weights
from vtp.scores import scores


def pruned(rate: float) -> Model:
    return slim(scored(), keep_masks(scores(scored()), rate))


def test_what_dims_have_lost_is_refitted_to_the_scored_model_in_a_budget_of_the_dense_one() -> None:
    images, model = digits().train.images[:512], pruned(0.3)
    found = shared(model, scored(), dense(), images, Budget(0.33, "parameters", "pivot"), 0)
    assert found.share > 0
    left = 0.33 * weights(dense()) / weights(model)
    narrowed = Narrowing.of(model, moments(model, images, 0)).to(left**found.share)[0]
    expected = corrected(narrowed, scored(), images)
    assert found.model.spec == expected.spec
    with torch.no_grad():
        torch.testing.assert_close(found.model(images), expected(images))


def test_factors_of_writers_make_up_for_what_pruning_has_lost() -> None:
    images, validation, model = digits().train.images[:512], digits().validation.images, pruned(0.5)
    flows, plan = moments(model, images, 0), settings_of(keep=0.7, metric="loss")
    cut = factorise(model, "svd", plan, flows)[0]
    fitted = corrected_factors(cut, model, scored(), images, "svd", plan, flows)
    assert divergence(scored(), fitted, validation) < 0.2 * divergence(scored(), model, validation)


def test_few_images_bring_most_of_what_pruning_has_lost() -> None:
    images, validation, model = digits().train.images[:32], digits().validation.images, pruned(0.4)
    fitted = corrected(model, scored(), images)
    assert divergence(scored(), fitted, validation) < 0.2 * divergence(scored(), model, validation)
