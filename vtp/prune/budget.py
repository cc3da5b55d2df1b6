"""How dims and ranks share one budget: of some shares, the one that is expected to lose least is taken."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vtp.calibration.moments import Moments, moments
from vtp.calibration.roots import Root, gradient_ridge
from vtp.knapsack import Table, solve
from vtp.models import Model, factorisable
from vtp.prune.correction import corrected
from vtp.prune.inner import InnerReport, Narrowing, weights

SHARES = (0.0, 0.25, 0.5, 0.75)
"""Of the logarithm of what the budget leaves, the part that dims take before ranks take the rest."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Shared:
    """A model whose dims have taken their share of a budget.

    Attributes:
        model: it, refitted.
        share: of the budget, that dims have taken.
        sites: what became of each inner site.
        predicted: share -> nats that the predictions are expected to move in the end, of dims and of ranks.
    """

    model: Model
    share: float
    sites: list[InnerReport]
    predicted: dict[float, tuple[float, float]]


def shared(model: Model, reference: Model, images: Tensor, target: float, seed: int) -> Shared:
    """Return `model` with fewer dims, so that ranks can bring its layers to `target` weights at the least loss.

    Args:
        model: without scores and factors, on the CPU.
        reference: whose outputs it is refitted to.
        images: uint8 (N, C, H, W), without labels.
        target: weights of the layers inside the blocks that are to be left in the end.
        seed: of the gradients' draws.
    """
    narrowing = Narrowing.of(model, moments(model, images, seed))
    found: dict[float, tuple[Model, list[InnerReport]]] = {}
    predicted = {}
    for share in SHARES:
        keep = min(1.0, target / weights(model)) ** share
        slim, sites = narrowing.to(keep) if share else (model, [])
        slim = corrected(slim, reference, images)
        found[share] = slim, sites
        predicted[share] = (
            sum(site.predicted_loss for site in sites),
            loss_by_ranks(slim, moments(slim, images, seed), target),
        )
    best = min(SHARES, key=lambda share: sum(predicted[share]))
    return Shared(model=found[best][0], share=best, sites=found[best][1], predicted=predicted)


def loss_by_ranks(model: Model, flows: Mapping[str, Moments], target: float) -> float:
    """Return the nats that the best ranks are expected to lose, with at most `target` weights in pivot form.

    The best are those of the SVD in the metric `loss`. Where rank 1 of all layers is more, that is taken.
    """
    roots = {id(flow.inputs): Root(flow.inputs.covariance) for flow in flows.values()}
    tables = []
    for name, layer in factorisable(model).items():
        flow, weight = flows[name], layer.weight.detach().flatten(1).double()
        gradients = Root(flow.gradients, gradient_ridge(flow))
        worth = torch.linalg.svdvals(gradients.root @ weight @ roots[id(flow.inputs)].root).square()
        errors = (worth.sum() - worth.cumsum(0)).clamp_min(0).numpy()
        (rows, columns), ranks = weight.shape, np.arange(1.0, len(worth) + 1)
        saves = ranks * (rows + columns) < rows * columns  # multiply-accumulates
        bias = rows if layer.bias is None else 0  # the mean of what is lost is added
        costs = (ranks * (rows + columns - ranks) + bias)[saves]
        tables.append(Table(np.append(costs, rows * columns), np.append(errors[saves], 0.0)))
    least = sum(float(table.costs.min()) for table in tables)
    chosen = solve(tables, max(target, least))
    return sum(float(table.errors[index]) for table, index in zip(tables, chosen, strict=True)) / 2
