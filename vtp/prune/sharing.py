"""How dims and ranks share one budget: of some shares, the one that is expected to lose least is taken."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from vtp.budget import Budget, LayerCost, dense_cost
from vtp.calibration.moments import Moments, moments
from vtp.calibration.roots import Root, check_gradients, gradient_ridge
from vtp.inference.times import measured, milliseconds
from vtp.knapsack import Table, solve
from vtp.models import Model, factorisable
from vtp.prune.correction import corrected
from vtp.prune.inner import InnerReport, Narrowing
from vtp.times import Times

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
"""The part of the logarithm of what the budget leaves that dims take of the weights, before ranks take the rest.

Those above 1 are for budgets of time, which falls by less than the weights do.
"""

STEP = 8
"""Dims that go or stay together where time counts: as many floats go into a register."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Shared:
    """A model whose dims have taken their share of a budget.

    Attributes:
        model: it, refitted.
        share: of the budget, that dims have taken.
        sites: what became of each inner site.
        predicted: share -> nats that the predictions are expected to move in the end, of dims and of ranks; only
            those with which the budget can be kept.
        times: what its layers cost, where time counts.
    """

    model: Model
    share: float
    sites: list[InnerReport]
    predicted: dict[float, tuple[float, float]]
    times: Times | None = None


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
        model: without scores and factors, on the device of `images`, as the other two.
        reference: whose outputs it is refitted to.
        dense: of whose cost the budget is a fraction.
        images: uint8 (N, C, H, W), without labels.
        budget: of the model in the end.
        seed: of the gradients' draws.
    """
    flows = moments(model, images, seed)
    check_gradients(flows)
    narrowing = Narrowing.of(model, flows, STEP if budget.unit == "latency" else 1)
    whole, before = (_cost(each, flows, budget) for each in (dense, model))
    left = min(1.0, budget.keep * whole / before)
    predicted: dict[float, tuple[float, float]] = {}
    best, lost = Shared(model=model, share=0.0, sites=[], predicted=predicted), math.inf
    for share in SHARES:
        slim, sites = narrowing.to(left**share) if share else (model, [])
        by_dims = sum(site.predicted_loss for site in sites)
        if by_dims >= lost:
            break
        slim = corrected(slim.to(images.device), reference, images)
        times = measured(slim, budget.batch, dense) if budget.unit == "latency" else None
        target = budget.keep * (times.dense if times else whole)
        by_ranks = loss_by_ranks(slim, moments(slim, images, seed), budget, target, times)
        if by_ranks < math.inf:
            predicted[share] = (by_dims, by_ranks)
        if by_dims + by_ranks <= lost:
            lost, best = by_dims + by_ranks, replace(best, model=slim, share=share, sites=sites, times=times)
    return best


def _cost(model: Model, flows: Mapping[str, Moments], budget: Budget) -> float:
    """Return the cost of a model without factors, in the unit of the budget."""
    if budget.unit == "latency":
        return milliseconds(model, budget.batch)
    return dense_cost(model, flows, budget.unit)


def loss_by_ranks(
    model: Model, flows: Mapping[str, Moments], budget: Budget, target: float, times: Times | None = None
) -> float:
    """Return the nats that the best ranks are expected to lose, with at most `target` in the budget's unit.

    The best are those of the SVD in the metric `loss`. Infinite where even the least ranks cost more.
    """
    roots = {id(flow.inputs): Root(flow.inputs.covariance) for flow in flows.values()}
    tables = []
    for name, layer in factorisable(model).items():
        flow, weight = flows[name], layer.weight.detach().flatten(1).double().cpu()
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
        return math.inf
    chosen = solve(tables, target)
    return sum(float(table.errors[index]) for table, index in zip(tables, chosen, strict=True)) / 2
