"""Which dimensions stay: keep masks from scores, and the masked model."""

from collections.abc import Mapping

import torch
from torch import Tensor

from vtp.models import Model, from_state

Masks = Mapping[str, Tensor]
MINIMUM = 1  # dimensions that every site keeps, whatever the rate


def keep_masks(site_scores: Mapping[str, Tensor], rate: float) -> dict[str, Tensor]:
    """Return site -> bool (dims,) on the CPU, True where a dimension stays: one threshold over all sites given.

    The paper's section 2.2: all |a| are ranked and the lowest `rate` of them, rounded to a whole number, go.
    Of equal scores the earlier one in the model's order goes first. Each site keeps its `MINIMUM` best
    dimensions (the first of equals); those spared so are made up for by the next in rank, as far as there are
    any.
    """
    magnitudes = {site: score.detach().abs().double().cpu() for site, score in site_scores.items()}
    for magnitude in magnitudes.values():
        magnitude[magnitude.argsort(descending=True, stable=True)[:MINIMUM]] = float("inf")
    ranked = torch.cat(list(magnitudes.values()))
    removed = min(round(rate * len(ranked)), int(ranked.isfinite().sum()))
    keep = torch.ones(len(ranked), dtype=torch.bool)
    keep[ranked.argsort(stable=True)[:removed]] = False
    sizes = [len(magnitude) for magnitude in magnitudes.values()]
    return dict(zip(magnitudes, keep.split(sizes), strict=True))


def keep_masks_by_layer(site_scores: Mapping[str, Tensor], rate: float) -> dict[str, Tensor]:
    """Return the masks of `keep_masks` with a threshold of its own for each site: all lose the same fraction."""
    return {site: keep_masks({site: score}, rate)[site] for site, score in site_scores.items()}


THRESHOLDS = {"global": keep_masks, "layer": keep_masks_by_layer}


def masked(model: Model, masks: Masks) -> Model:
    """Return the scored model with every score outside `masks` set to zero."""
    state = dict(model.state_dict())
    for site, keep in masks.items():
        score = state[f"{site}.score"]
        state[f"{site}.score"] = score * keep.to(score.device)
    return from_state(model.spec, state)
