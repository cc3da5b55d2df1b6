"""The form in which a model answers fastest: the same logits, by fewer and larger steps.

A model keeps the form in which it is trained, pruned and saved; this one is made from it where it answers.
"""

import copy
from collections.abc import Iterable

from torch import nn

from vtp.inference.filling import filled
from vtp.inference.layers import as_pair
from vtp.inference.vit import FusedVisionTransformer
from vtp.models import Model
from vtp.models.layers import LowRankConv2d, LowRankLinear
from vtp.models.vit.module import VisionTransformer


def for_inference(model: Model) -> Model:
    """Return a model in evaluation mode that gives the logits of `model`, up to rounding, in the least time.

    Its steps are those of `fused`, of sizes that the hardware likes. `model` stays as it is; what is returned may
    share weights with it, and is neither trained nor saved.
    """
    return fused(filled(model))


def fused(model: Model) -> Model:
    """Return a model in evaluation mode that gives the logits of `model`, up to rounding, by fewer steps.

    The pivot form is put together, once for all calls. Of a vision transformer without importance scores, the
    layers that read the same rows are one product, and the pixels' normalisation is part of the embedding.
    """
    if isinstance(model, VisionTransformer) and not model.spec.scored:
        return FusedVisionTransformer(model)
    plain = copy.deepcopy(model).eval()
    for name, module in model.named_modules():
        if isinstance(module, LowRankLinear | LowRankConv2d):
            plain.set_submodule(name, as_pair(module))
    return plain


def parts_of(model: Model, layers: Iterable[str]) -> dict[str, list[tuple[nn.Module, float]]]:
    """Return layer -> the modules of an inference form that do its work, and their time's part for it."""
    if isinstance(model, FusedVisionTransformer):
        return {name: model.parts(name) for name in layers}
    return {name: [(model.get_submodule(name), 1.0)] for name in layers}


__all__ = ["for_inference", "fused", "parts_of"]
