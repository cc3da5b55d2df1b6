"""Which dimensions stay: keep masks from scores, and the masked model."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from vtp.models import Model, from_state
from vtp.params import PruneParams
from vtp.scores import kind_of

Masks = Mapping[str, Tensor]
MINIMUM = 1  # dimensions that every site keeps, whatever the rate


@dataclass(frozen=True)
class Cut:
    """Which dimensions go.

    Attributes:
        keep: site -> bool (dims,) on the CPU, True where a dimension stays.
        thresholds: site -> the largest |score| that goes where it was ranked, at this site or at the others that
            share its threshold; None where nothing goes.
    """

    keep: dict[str, Tensor]
    thresholds: dict[str, float | None]


def choose_cut(site_scores: Mapping[str, Tensor], params: PruneParams) -> Cut:
    """Return the cut that `params` ask for.

    Args:
        site_scores: site -> scores (dims,).
        params: with the threshold `layer` each site is ranked alone; with `global` the sites whose kind has one of
            the `rates` are ranked with their kind, and all others together.
    """
    keep: dict[str, Tensor] = {}
    thresholds: dict[str, float | None] = {}
    for share in _shares(site_scores, params):
        rate = params.rates.get(kind_of(next(iter(share))), params.rate)
        masks = keep_masks(share, rate)
        removed = [
            float(share[site].detach().cpu()[~mask].abs().max()) for site, mask in masks.items() if not mask.all()
        ]
        keep |= masks
        thresholds |= dict.fromkeys(share, max(removed, default=None))
    return Cut({site: keep[site] for site in site_scores}, {site: thresholds[site] for site in site_scores})


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


def _shares(site_scores: Mapping[str, Tensor], params: PruneParams) -> list[dict[str, Tensor]]:
    """Return the scores in groups that share a threshold."""
    shares: dict[str, dict[str, Tensor]] = {}
    for site, score in site_scores.items():
        kind = kind_of(site) if kind_of(site) in params.rates else "others"
        shares.setdefault(site if params.threshold == "layer" else kind, {})[site] = score
    return list(shares.values())


def masked(model: Model, masks: Masks) -> Model:
    """Return the scored model with every score outside `masks` set to zero."""
    state = dict(model.state_dict())
    for site, keep in masks.items():
        score = state[f"{site}.score"]
        state[f"{site}.score"] = score * keep.to(score.device)
    return from_state(model.spec, state)
