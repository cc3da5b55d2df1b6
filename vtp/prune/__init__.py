"""Scores to keep masks, and a scored model to the slim one that computes exactly the same.

`slim(model, masks)` is the model in which every score outside `masks` is zero (`masked`), without the
dimensions that are zero: the kept scores are folded into the weights, and everything else that the logits
depend on (each head's own dims, the softmax scale, the norms) stays that of the trained model. Both leave the
model they are given as it is.
"""

from collections.abc import Callable
from typing import Any

from vtp.models import Model, ModelSpec, from_state
from vtp.models.resnet import ResNetSpec
from vtp.models.vit import ViTSpec
from vtp.prune.correction import corrected
from vtp.prune.masks import MINIMUM, Cut, Masks, choose_cut, keep_masks, masked
from vtp.prune.resnet import slim_resnet
from vtp.prune.surgery import State
from vtp.prune.vit import slim_vit
from vtp.scores import scores

SURGERY: dict[type[ModelSpec], Callable[[Any, State, Masks], ModelSpec]] = {
    ViTSpec: slim_vit,
    ResNetSpec: slim_resnet,
}


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
    spec = SURGERY[type(model.spec)](model.spec, state, masks)
    return from_state(spec, state)


__all__ = ["MINIMUM", "Cut", "Masks", "choose_cut", "corrected", "keep_masks", "masked", "slim"]
