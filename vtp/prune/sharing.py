"""How dims and ranks share one budget: of some shares, the one that is expected to lose least is taken."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vtp.budget import Budget, LayerCost, dense_cost
from vtp.calibration.moments import Moments, moments
from vtp.calibration.roots import Root, gradient_ridge
from vtp.inference.times import measured, milliseconds
from vtp.knapsack import Table, solve
from vtp.models import Model, factorisable
from vtp.prune.correction import corrected
from vtp.prune.inner import InnerReport, Narrowing
from vtp.times import Times

SHARES = (0.0, 0.25, 0.5, 0.75)
"""Of the logarithm of what the budget leaves, the part that dims take before ranks take the rest."""

SHARES_OF_TIME = (0.0, 1.0, 1.5, 2.0)
"""The same where time counts: it falls by less than the weights do, and short products gain nothing by ranks."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Shared:
    """A model whose dims have taken their share of a budget.

    Attributes:
        model: it, refitted.
        share: of the budget, that dims have taken.
        sites: what became of each inner site.
        predicted: share -> nats that the predictions are expected to move in the end, of dims and of ranks; only
            those with which the budget can be kept.
    """

    model: Model
    share: float
    sites: list[InnerReport]
    predicted: dict[float, tuple[float, float]]


def shared(
    model: Model,
    reference: Model,
    dense: Model,
    images: Tensor,
    budget: Budget,
    seed: int,
) -> Shared:
    """Return `model` with fewer dims, so that ranks can bring it to a budget at the least loss.

    Where no share lets the budget be kept, the largest one is taken.

    Args:
        model: without scores and factors, on the CPU.
        reference: whose outputs it is refitted to.
        dense: of whose cost the budget is a fraction.
        images: uint8 (N, C, H, W), without labels.
        budget: of the model in the end.
        seed: of the gradients' draws.
    """
    flows = moments(model, images, seed)
    narrowing = Narrowing.of(model, flows)
    whole, before = (_cost(each, flows, budget) for each in (dense, model))
    target = budget.keep * whole
    found: dict[float, tuple[Model, list[InnerReport]]] = {}
    predicted = {}
    shares = SHARES_OF_TIME if budget.unit == "latency" else SHARES
    for share in shares:
        keep = min(1.0, target / before) ** share
        slim, sites = narrowing.to(keep) if share else (model, [])
        slim = corrected(slim, reference, images)
        found[share] = slim, sites
        times = measured(slim, budget.batch, whole) if budget.unit == "latency" else None
        by_ranks = loss_by_ranks(slim, moments(slim, images, seed), budget, target, times)
        if by_ranks is not None:
            predicted[share] = (sum(site.predicted_loss for site in sites), by_ranks)
    best = min(predicted, key=lambda share: sum(predicted[share]), default=shares[-1])
    return Shared(model=found[best][0], share=best, sites=found[best][1], predicted=predicted)


def _cost(model: Model, flows: Mapping[str, Moments], budget: Budget) -> float:
    """Return the cost of a model without factors, in the unit of the budget."""
    if budget.unit == "latency":
        return milliseconds(model, budget.batch)
    return dense_cost(model, flows, budget.unit)


def loss_by_ranks(
    model: Model, flows: Mapping[str, Moments], budget: Budget, target: float, times: Times | None = None
) -> float | None:
    """Return the nats that the best ranks are expected to lose, with at most `target` in the budget's unit.

    The best are those of the SVD in the metric `loss`. None where even the least ranks cost more.
    """
    roots = {id(flow.inputs): Root(flow.inputs.covariance) for flow in flows.values()}
    tables = []
    for name, layer in factorisable(model).items():
        flow, weight = flows[name], layer.weight.detach().flatten(1).double()
        gradients = Root(flow.gradients, gradient_ridge(flow))
        worth = torch.linalg.svdvals(gradients.root @ weight @ roots[id(flow.inputs)].root).square()
        errors = (worth.sum() - worth.cumsum(0)).clamp_min(0).numpy()
        cost = LayerCost.of(layer, flow, moves_mean=True, times=times.layers[name] if times else None)
        ranks = np.arange(1.0, len(worth) + 1)
        saves = cost.factors(ranks, budget.form, "macs") < cost.dense("macs")
        costs = cost.factors(ranks, budget.form, budget.unit)[saves]
        tables.append(Table(np.append(costs, cost.dense(budget.unit)), np.append(errors[saves], 0.0)))
    if times:  # what the model takes beside its layers stays
        target -= times.total - sum(layer.dense for layer in times.layers.values())
    if target < sum(float(table.costs.min()) for table in tables):
        return None
    chosen = solve(tables, target)
    return sum(float(table.errors[index]) for table, index in zip(tables, chosen, strict=True)) / 2
