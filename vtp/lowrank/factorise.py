"""Factorise a model's layers: which rank each gets, its pair of factors, and the new model.

A method approximates P W S, where P and S belong to the metric; what is minimised is the error in that metric.
With the metrics of outputs the mean shift (W - Ŵ) μ goes into the bias.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from vtp.decompositions import NotDecomposable, balance, decompose_all
from vtp.decompositions.base import numerical_rank
from vtp.errors import UserError
from vtp.lowrank.allocation import ALLOCATIONS, Choices, Ranks
from vtp.lowrank.flows import Moments
from vtp.lowrank.layer_report import CURVE_POINTS, Layer, LayerReport, dense_report, factor_report, weight_matrix
from vtp.lowrank.metric import METRICS, Metric
from vtp.models import Model, factorisable, from_state
from vtp.models.spec import Factor
from vtp.params import DecomposeParams


@dataclass(frozen=True)
class Decomposed:
    """One layer's matrix, its factors by the method, and the metric.

    Attributes:
        matrix: P W S, (out, in) in float64.
        left, right: all terms of its decomposition, (out, k) and (k, in).
        metric: has P and S.
        positions: input rows an image.
        seconds: what the decomposition took.
    """

    matrix: Tensor
    left: Tensor
    right: Tensor
    metric: Metric
    positions: int
    seconds: float

    def errors(self) -> Tensor:
        """Return ‖matrix - left·right‖_F² of the truncation to rank 0, 1, …, k.

        What is cut off is Σ lᵢrᵢᵀ over the last terms, whose squared norm is Σᵢⱼ (lᵢ·lⱼ)(rᵢ·rⱼ).
        """
        products = (self.left.T @ self.left) * (self.right @ self.right.T)
        terms = products.diagonal() + 2 * products.triu(1).sum(1)
        tails = terms.flip(0).cumsum(0).flip(0).clamp_min(0)
        return torch.cat([tails, tails.new_zeros(1)])

    def optimum_ratio(self, rank: int) -> float | None:
        """Return the error of the truncation over the least one at that rank; None where that is but rounding."""
        values = torch.linalg.svdvals(self.matrix)
        if numerical_rank(values.numpy(), tuple(self.matrix.shape)) <= rank:
            return None
        return float(self.errors()[rank].sqrt()) / float(values[rank:].norm())

    def curve(self) -> tuple[float, ...]:
        """Return the relative error at `CURVE_POINTS` ranks, evenly from 0 to k."""
        errors = self.errors()
        ranks = torch.linspace(0, len(errors) - 1, CURVE_POINTS).round().long()
        return tuple((errors[ranks] / errors[0].clamp_min(torch.finfo(errors.dtype).tiny)).sqrt().tolist())

    def choices(self, budget: str, new_bias: bool) -> Choices:
        """Return the ranks that cost less than the dense layer, in `parameters` or in `macs`."""
        rows, columns = self.matrix.shape
        costs = np.arange(1.0, len(self.right) + 1) * (rows + columns)
        dense = float(rows * columns)
        if budget == "parameters":
            costs += rows * new_bias
        else:
            costs, dense = costs * self.positions, dense * self.positions
        saves = costs < dense
        errors = self.errors()
        unit = 1.0 if self.metric.is_shared or errors[0] == 0 else errors[0]
        return Choices(costs[saves], (errors[1:] / unit).numpy()[saves], dense)

    def truncate(self, rank: int) -> tuple[Tensor, Tensor]:
        """Return balanced factors of Ŵ: (out, rank) and (rank, in), float64."""
        return balance(*self.metric.undo(self.left[:, :rank], self.right[:rank]))


def factorise(
    model: Model, method: str, params: DecomposeParams, moments: Mapping[str, Moments]
) -> tuple[Model, list[LayerReport]]:
    """Return `model` with its layers factorised by `method`, and a report of each layer.

    Args:
        model: a model without factors, on the CPU; it stays as it is.
        method: a name in `vtp.decompositions.METHODS`, or `none`, which factorises nothing.
        params: the budget and how it is spent. A layer for which factors would save nothing, or that the
            method cannot decompose, stays dense; the budget is that of the layers that the method can take.
        moments: of what flows through every factorisable layer; with gradients if the metric is `loss`.
    """
    layers = factorisable(model)
    decomposed, reasons = _decompose_all(layers, method, params.metric, moments)
    ranks = _ranks(layers, decomposed, params)
    state, factors, reports = dict(model.state_dict()), {}, []
    for name, layer in layers.items():
        rank = ranks.get(name)
        if rank is None:
            reports.append(
                dense_report(name, layer, moments[name], reasons.get(name, "factors would save nothing"))
            )
            continue
        entry = decomposed[name]
        left, right = entry.truncate(rank)
        approximation = left @ right
        bias = _bias(layer, approximation, moments[name], entry.metric)
        factors[name] = Factor(rank, bias is not None)
        _put(state, name, left, right, bias)
        report = factor_report(name, layer, moments[name], approximation, rank, bias is not None)
        ratio, curve = entry.optimum_ratio(rank), entry.curve()
        reports.append(replace(report, optimum_ratio=ratio, curve=curve, seconds=entry.seconds))
    return from_state(replace(model.spec, factors=factors), state), reports


def _decompose_all(
    layers: Mapping[str, Layer], method: str, metric: str, moments: Mapping[str, Moments]
) -> tuple[dict[str, Decomposed], dict[str, str]]:
    """Return layer -> decomposition for those that have one, and layer -> reason for the others."""
    if method == "none":
        return {}, dict.fromkeys(layers, "the method none factorises nothing")
    metrics = {name: METRICS[metric](moments[name]) for name in layers}
    matrices = {name: metrics[name].apply(weight_matrix(layer)) for name, layer in layers.items()}
    decomposed, reasons = {}, {}
    for name, (record, seconds) in decompose_all(matrices, method).items():
        if isinstance(record, NotDecomposable):
            reasons[name] = str(record)
        else:
            decomposed[name] = Decomposed(
                matrices[name], *record.factors, metrics[name], moments[name].positions, seconds
            )
    return decomposed, reasons


def _ranks(layers: Mapping[str, Layer], decomposed: Mapping[str, Decomposed], params: DecomposeParams) -> Ranks:
    choices = {
        name: entry.choices(params.budget, entry.metric.moves_mean and layers[name].bias is None)
        for name, entry in decomposed.items()
    }
    if not choices:
        return {}
    dense = sum(layer.dense for layer in choices.values())
    least = sum(layer.least for layer in choices.values()) / dense
    if params.keep < least:
        raise UserError(
            f"params.yaml: decompose.keep is {params.keep:g}, but must be at least {least:.4f} for this model: "
            "each layer at rank 1, or dense where that saves nothing"
        )
    return ALLOCATIONS[params.allocation](choices, params.keep)


def _bias(layer: Layer, approximation: Tensor, moments: Moments, metric: Metric) -> Tensor | None:
    """Return the bias to go with Ŵ: where the metric moves the mean, it makes up for the shift (W - Ŵ) μ."""
    if not metric.moves_mean:
        return layer.bias
    shift = (weight_matrix(layer) - approximation) @ moments.mean
    return shift if layer.bias is None else shift + layer.bias.detach().double().cpu()


def _put(state: dict[str, Tensor], name: str, left: Tensor, right: Tensor, bias: Tensor | None) -> None:
    """Replace the dense weights of layer `name` in `state` by its factors, shaped as its kind of layer wants."""
    weight = state.pop(f"{name}.weight")
    state.pop(f"{name}.bias", None)
    state[f"{name}.left.weight"] = left.reshape(*left.shape, *[1] * (weight.ndim - 2)).to(weight)
    state[f"{name}.right.weight"] = right.reshape(-1, *weight.shape[1:]).to(weight)
    if bias is not None:
        state[f"{name}.left.bias"] = bias.to(weight)
