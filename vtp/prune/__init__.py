"""Scores to keep masks, and a scored model to the slim one that computes exactly the same.

`slim(model, masks)` is the model in which every score outside `masks` is zero (`masked`), without the
dimensions that are zero: the kept scores are folded into the weights, and everything else that the logits
depend on (each head's own dims, the softmax scale, the norms) stays that of the trained model. Both leave the
model they are given as it is.
"""

from vtp.models import FAMILIES, Model, from_state
from vtp.models.family import Masks
from vtp.prune.correction import corrected
from vtp.prune.inner import InnerReport, Narrowing, weights
from vtp.prune.masks import MINIMUM, Cut, choose_cut, keep_masks, masked
from vtp.prune.sharing import Shared, shared
from vtp.scores import scores


def slim(model: Model, masks: Masks) -> Model:
    """Return the unscored model of the kept dimensions, with the scores folded into the weights.

    Its logits in evaluation mode are those of `masked(model, masks)` up to rounding: each folded weight is
    the exact product of weight and score, rounded once to their dtype (once for each, where two scores meet).

    Args:
        model: a scored model without factors.
        masks: bool (dims,) for every site of the model, with at least one dimension kept in each.
    """
    assert masks.keys() == scores(model).keys()
    state = dict(model.state_dict())
    spec = FAMILIES[model.spec.name].slim(model.spec, state, masks)
    return from_state(spec, state)


__all__ = [
    "MINIMUM",
    "Cut",
    "InnerReport",
    "Masks",
    "Narrowing",
    "Shared",
    "choose_cut",
    "corrected",
    "keep_masks",
    "masked",
    "shared",
    "slim",
    "weights",
]
