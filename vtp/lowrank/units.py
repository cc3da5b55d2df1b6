"""What low-rank works on: units, each a matrix with its metric, its costs, and a place for its factors.

A layer is one kind of unit. Another kind is a further subclass and its place in `units`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from vtp.budget import LayerCost, form_of
from vtp.calibration.moments import Moments
from vtp.knapsack import Floats
from vtp.lowrank.metric import Metric, metrics
from vtp.lowrank.pivots import pivot_form
from vtp.lowrank.report import UnitReport
from vtp.models.spec import Factor, Form
from vtp.numerics import sqrt
from vtp.params import DecomposeParams
from vtp.times import Times

State = dict[str, Tensor]


def stored(form: Form, left: Tensor, right: Tensor, weight: Tensor) -> State:
    """Return what a module stores of left (out, rank) and right (rank, in), in the dtype of the weight before."""
    if form == "pivot":
        pivots, mix, order = pivot_form(left, right)
        made = {"left.mix": mix.to(weight), "left.order": order.to(weight.device)}
        return made | {"right.weight": pivots.reshape(-1, *weight.shape[1:]).to(weight)}
    return {
        "left.weight": left.reshape(*left.shape, *[1] * (weight.ndim - 2)).to(weight),
        "right.weight": right.reshape(-1, *weight.shape[1:]).to(weight),
    }


@dataclass(frozen=True, eq=False)
class Unit(ABC):
    """A matrix of the model that a pair of factors may replace.

    Attributes:
        name: of the place in the model.
        metric: in which its error counts.
        form: in which its factors are stored, `pair` or `pivot`.
    """

    name: str
    metric: Metric
    form: Form

    @property
    @abstractmethod
    def matrix(self) -> Tensor:
        """The matrix (out, in), float64 on the CPU."""

    @abstractmethod
    def costs(self, ranks: Floats, budget: str) -> Floats:
        """Return what factors of these ranks cost, in `parameters`, `macs` for one image, or `latency` in ms."""

    @abstractmethod
    def dense_cost(self, budget: str) -> float:
        """Return what the matrix costs as it is, in the same unit."""

    @abstractmethod
    def write(self, state: State, left: Tensor, right: Tensor) -> dict[str, Factor]:
        """Put left (out, rank) and right (rank, in) in the matrix' place; return what the spec says of it."""

    @abstractmethod
    def report(self, rank: int | None, approximation: Tensor) -> UnitReport:
        """Return what became of the unit whose matrix is now `approximation`; `rank` None: it stays dense."""


@dataclass(frozen=True, eq=False)
class Layer(Unit):
    """A linear layer or a convolution, whose matrix is its weight flattened to (out, in · k · k).

    Where the metric is one of outputs about their mean, the mean shift (W - Ŵ) μ goes into the bias.
    """

    layer: nn.Linear | nn.Conv2d
    moments: Moments
    cost: LayerCost

    @property
    def matrix(self) -> Tensor:
        return self.layer.weight.detach().flatten(1).double().cpu()

    def costs(self, ranks: Floats, budget: str) -> Floats:
        return self.cost.factors(ranks, self.form, budget)

    def dense_cost(self, budget: str) -> float:
        return self.cost.dense(budget)

    def write(self, state: State, left: Tensor, right: Tensor) -> dict[str, Factor]:
        weight, bias = state.pop(f"{self.name}.weight"), state.pop(f"{self.name}.bias", None)
        state |= {f"{self.name}.{part}": tensor for part, tensor in stored(self.form, left, right, weight).items()}
        if self.metric.moves_mean:
            shift = (self.matrix - left @ right) @ self.moments.inputs.mean
            bias = shift if bias is None else shift + bias.double().cpu()
        if bias is not None:
            state[f"{self.name}.left.bias"] = bias.to(weight)
        return {self.name: Factor(left.shape[1], bias is not None, self.form)}

    def report(self, rank: int | None, approximation: Tensor) -> UnitReport:
        weight = self.matrix

        def cost(budget: str) -> int:
            return int(self.dense_cost(budget) if rank is None else self.costs(np.array([float(rank)]), budget)[0])

        return UnitReport(
            unit=self.name,
            shape=(weight.shape[0], weight.shape[1]),
            rank=rank,
            parameters=cost("parameters"),
            parameters_dense=int(self.dense_cost("parameters")),
            macs=cost("macs"),
            macs_dense=int(self.dense_cost("macs")),
            weight_error=_ratio((weight - approximation).norm(), weight.norm()),
            output_error=_ratio(self._output_norm(weight - approximation), self._output_norm(weight)),
        )

    def _output_norm(self, weight: Tensor) -> Tensor:
        """Return the root mean square of the outputs W x about their mean, summed over the outputs."""
        return sqrt(((weight @ self.moments.inputs.covariance) * weight).sum().clamp_min(0))


def units(
    layers: Mapping[str, nn.Linear | nn.Conv2d],
    flows: Mapping[str, Moments],
    params: DecomposeParams,
    times: Times | None = None,
) -> dict[str, Unit]:
    """Return name -> unit for everything that factors may replace, given layers by their names."""
    of_layer, form = metrics(params.metric, flows), form_of(params.form, params.budget)
    measured = times.layers if times else {}

    def unit(name: str, layer: nn.Linear | nn.Conv2d) -> Unit:
        cost = LayerCost.of(layer, flows[name], of_layer[name].moves_mean, measured.get(name))
        return Layer(name, of_layer[name], form, layer, flows[name], cost)

    return {name: unit(name, layer) for name, layer in layers.items()}


def _ratio(error: Tensor, whole: Tensor) -> float:
    return float(error / whole) if whole > 0 else 0.0
