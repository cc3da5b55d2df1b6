"""Which dimensions stay: keep masks from scores, and the masked model."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from vtp.models import Model, from_state
from vtp.models.family import Masks
from vtp.params import PruneParams
from vtp.scores import kind_of

S = TypeVar("S", bound=Hashable)
MINIMUM = 1  # dimensions that every site, or head ranked by itself, keeps, whatever the rate


@dataclass(frozen=True)
class Cut:
    """Which dimensions go.

    Attributes:
        keep: site -> bool (dims,) on the CPU, True where a dimension stays.
        thresholds: site -> the largest |score| that goes from each lot in which the site's dimensions were ranked
            (from the whole lot, which other sites may share); a lot from which nothing goes has none.
    """

    keep: dict[str, Tensor]
    thresholds: dict[str, list[float]]


class Part(NamedTuple):
    """A site, or one head of it."""

    site: str
    head: int


def choose_cut(
    site_scores: Mapping[str, Tensor], params: PruneParams, head_dims: Mapping[str, Sequence[int]]
) -> Cut:
    """Return the cut that `params` ask for.

    Args:
        site_scores: site -> scores (dims,).
        params: with the threshold `layer` each site is ranked alone, and with `head` each head of it; with
            `global` the sites whose kind has one of the `rates` are ranked with their kind, and all others
            together.
        head_dims: site -> the dims of its heads, for sites that have heads (`Model.head_dims`).
    """
    keep: dict[str, list[Tensor]] = {site: [] for site in site_scores}
    thresholds: dict[str, list[float]] = {site: [] for site in site_scores}
    for lot in _lots(site_scores, params, head_dims):
        rate = params.rates.get(kind_of(next(iter(lot)).site), params.rate)
        masks = keep_masks(lot, rate)
        gone = torch.cat([lot[part].detach().cpu()[~mask].abs() for part, mask in masks.items()])
        for part, mask in masks.items():
            keep[part.site].append(mask)
            thresholds[part.site] += [float(gone.max())] if len(gone) else []
    return Cut({site: torch.cat(parts) for site, parts in keep.items()}, thresholds)


def keep_masks(site_scores: Mapping[S, Tensor], rate: float) -> dict[S, Tensor]:
    """Return site -> bool (dims,) on the CPU, True where a dimension stays: one threshold over all sites given.

    The paper's section 2.2: all |a| are ranked and the lowest `rate` of them, rounded to a whole number, go.
    Scores that are exactly zero go whatever the rate, as that changes nothing. Of equal scores the earlier one
    in the model's order goes first. Each site keeps its `MINIMUM` best dimensions (the first of equals); those
    spared so are made up for by the next in rank, as far as there are any.
    """
    magnitudes = {site: score.detach().abs().double().cpu() for site, score in site_scores.items()}
    for magnitude in magnitudes.values():
        magnitude[magnitude.argsort(descending=True, stable=True)[:MINIMUM]] = float("inf")
    ranked = torch.cat(list(magnitudes.values()))
    removed = min(max(round(rate * len(ranked)), int((ranked == 0).sum())), int(ranked.isfinite().sum()))
    keep = torch.ones(len(ranked), dtype=torch.bool)
    keep[ranked.argsort(stable=True)[:removed]] = False
    sizes = [len(magnitude) for magnitude in magnitudes.values()]
    return dict(zip(magnitudes, keep.split(sizes), strict=True))


def _lots(
    site_scores: Mapping[str, Tensor], params: PruneParams, head_dims: Mapping[str, Sequence[int]]
) -> list[dict[Part, Tensor]]:
    """Return the scores in lots that are ranked together; the heads of a site come in their order."""
    lots: dict[Part | str, dict[Part, Tensor]] = {}
    for site, score in site_scores.items():
        sizes = head_dims.get(site, [len(score)]) if params.threshold == "head" else [len(score)]
        kind = kind_of(site) if kind_of(site) in params.rates else "others"
        for head, scores_of_head in enumerate(score.split(list(sizes))):
            part = Part(site, head)
            lots.setdefault(kind if params.threshold == "global" else part, {})[part] = scores_of_head
    return list(lots.values())


def masked(model: Model, masks: Masks) -> Model:
    """Return the scored model with every score outside `masks` set to zero."""
    state = dict(model.state_dict())
    for site, keep in masks.items():
        score = state[f"{site}.score"]
        state[f"{site}.score"] = score * keep.to(score.device)
    return from_state(model.spec, state)
