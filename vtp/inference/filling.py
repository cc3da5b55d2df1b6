"""Ranks that the hardware likes: a product of 32 columns takes less time than one of 31."""

from dataclasses import replace
from typing import cast

from torch import Tensor
from torch.nn import functional as F

from vtp.models import Model, from_state
from vtp.models.layers import LowRankLinear
from vtp.models.spec import Factor
from vtp.times import STEP


def filled(model: Model) -> Model:
    """Return the model with ranks filled up with zeros to the next multiple of STEP, where few are missing.

    The logits are the same. Where more are missing, they would take more time than they save. Layers that are
    filled are pairs of factors; convolutions stay as they are. `model` stays as it is.
    """
    state, factors = model.state_dict(), dict(model.spec.factors)
    for name, layer in model.named_modules():
        if not isinstance(layer, LowRankLinear):
            continue
        right = cast(Tensor, layer.right.weight)
        rank = len(right)
        missing = -rank % STEP
        if 0 < missing < STEP / 2:
            left = cast(Tensor, layer.left.weight)
            for part in ("mix", "order"):
                state.pop(f"{name}.left.{part}", None)
            state[f"{name}.right.weight"] = F.pad(right.detach(), (0, 0, 0, missing))
            state[f"{name}.left.weight"] = F.pad(left.detach(), (0, missing))
            factors[name] = Factor(rank + missing, layer.bias is not None)
    return from_state(replace(model.spec, factors=factors), state) if factors != model.spec.factors else model
