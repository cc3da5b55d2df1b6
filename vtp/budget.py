"""What a layer costs, dense and as factors, by the budget: `parameters`, `macs` for one image, or `latency`.

Latency is milliseconds for a batch, which `vtp.inference.times` measures.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self, cast

from torch import nn

from vtp.calibration.moments import Moments
from vtp.errors import UserError
from vtp.knapsack import Floats
from vtp.models import Model, factorisable
from vtp.models.spec import Form
from vtp.times import LayerTimes


@dataclass(frozen=True)
class Budget:
    """What dims and ranks may cost together.

    Attributes:
        keep: fraction of the dense model's cost: that of the layers inside the blocks, or, where latency is what
            counts, of the whole model.
        unit: `parameters`, `macs` or `latency`.
        form: of the factors.
        batch: images that are timed, where latency is what counts.
    """

    keep: float
    unit: str
    form: Form
    batch: int = 0


@dataclass(frozen=True)
class LayerCost:
    """What a linear layer or a convolution costs.

    Attributes:
        rows, columns: of its weight, flattened to (out, in · k · k).
        positions: how many input rows it sees for each image.
        gains_bias: whether factors have a bias where the layer has none.
        times: what was measured of it; None: nothing.
    """

    rows: int
    columns: int
    positions: int
    gains_bias: bool = False
    times: LayerTimes | None = None

    @classmethod
    def of(
        cls, layer: nn.Linear | nn.Conv2d, flow: Moments, moves_mean: bool, times: LayerTimes | None = None
    ) -> Self:
        """Return what `layer` costs; with `moves_mean` the mean of what factors lose goes into a bias."""
        rows, columns = layer.weight.flatten(1).shape
        return cls(rows, columns, flow.positions, moves_mean and layer.bias is None, times)

    def dense(self, budget: str) -> float:
        """Return the cost as it is."""
        if budget == "latency":
            return self._measured.dense
        return float(self.rows * self.columns * (1 if budget == "parameters" else self.positions))

    def factors(self, ranks: Floats, form: Form, budget: str) -> Floats:
        """Return the costs of factors of these ranks; in pivot form rank² parameters are not stored."""
        if budget == "latency":
            return self._measured.of(ranks)
        pair: Floats = ranks * (self.rows + self.columns)
        if budget == "macs":
            return pair * self.positions
        return pair - (ranks**2 if form == "pivot" else 0.0) + self.rows * self.gains_bias

    @property
    def _measured(self) -> LayerTimes:
        if self.times is None:
            raise UserError("budget is latency, but no batch of images was timed")
        return self.times


def dense_cost(model: Model, flows: Mapping[str, Moments], budget: str) -> float:
    """Return what the factorisable layers of `model` cost, in `parameters` or in `macs` for one image.

    The flows may be those of a slimmer model: as many rows come by.
    """
    layers = factorisable(model).items()
    return sum(LayerCost.of(layer, flows[name], moves_mean=False).dense(budget) for name, layer in layers)


def form_of(form: str, budget: str) -> Form:
    """Return the form of factors, given `decompose.form`; `auto`: of those that cost alike, the plainer one."""
    if form == "auto":
        return "pivot" if budget == "parameters" else "pair"
    return cast(Form, form)
