"""Importance scores: where they sit.

A site is a place in the model that carries one score for each dimension; its name is the module's, such as
`blocks.3.mlp.hidden`. Its kind, such as `mlp.hidden`, names the same place in every block: `attention.inner`,
`mlp.hidden`, `attention.input` and `mlp.input` in a vision transformer, `block.inner` (of the site
`blocks.3.inner`) in a ResNet.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from vtp.models import Model, build, from_state
from vtp.models.layers import ImportanceScore


def with_scores(model: Model, kinds: tuple[str, ...]) -> Model:
    """Return a copy of a model without scores that has scores of one at every site of `kinds`.

    The copy computes the same logits: each dimension is multiplied by one.
    """
    spec = replace(model.spec, scored=kinds)
    ones = {
        f"{site}.score": torch.ones(score.shape, dtype=model.mean.dtype, device=model.mean.device)
        for site, score in scores(build(spec)).items()
    }
    return from_state(spec, {**model.state_dict(), **ones})


def scores(model: nn.Module) -> dict[str, Tensor]:
    """Return site -> its scores (dims,), live: changing them changes the model."""
    return {name: module.score for name, module in model.named_modules() if isinstance(module, ImportanceScore)}


def kind_of(site: str) -> str:
    """Return the kind of a site: `mlp.hidden` of `blocks.3.mlp.hidden`."""
    _, _, place = site.split(".", 2)
    return place if "." in place else f"block.{place}"
