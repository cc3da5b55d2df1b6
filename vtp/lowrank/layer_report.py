"""What became of one layer: its rank, what it costs now, and what that lost."""

from dataclasses import dataclass

from torch import Tensor, nn

from vtp.lowrank.flows import Moments

Layer = nn.Linear | nn.Conv2d
CURVE_POINTS = 33


@dataclass(frozen=True)
class LayerReport:
    """What became of one layer.

    Attributes:
        layer: its name.
        shape: (out, in) of the dense weight; a convolution's is flattened.
        rank: rank of the factors, or None where the layer stays dense.
        parameters: weights that it has now, with a bias that it did not have before.
        macs: multiply-accumulates that they cost for one image.
        weight_error: ‖W - Ŵ‖ / ‖W‖ in the Frobenius norm.
        output_error: the same of the outputs on the calibration images, about their mean.
        optimum_ratio: the error that the method minimised over the least one possible at this rank
            (Eckart-Young), or None where the layer is dense or the least error is zero.
        curve: the error that the method minimises, relative to the whole, at `CURVE_POINTS` ranks from 0 to full;
            for `svd` it is the tail of the spectrum. Empty where the layer is not decomposed.
        seconds: what decomposing the matrix took, zero where it was not; no part of a result that is compared.
        reason: why the layer stays dense, else empty.
    """

    layer: str
    shape: tuple[int, int]
    rank: int | None
    parameters: int
    macs: int
    weight_error: float
    output_error: float
    optimum_ratio: float | None
    curve: tuple[float, ...]
    seconds: float
    reason: str


def weight_matrix(layer: Layer) -> Tensor:
    """Return the weight as a matrix (out, in) in float64 on the CPU; of a convolution, in is channels · k · k."""
    return layer.weight.detach().flatten(1).double().cpu()


def dense_report(name: str, layer: Layer, moments: Moments, reason: str) -> LayerReport:
    """Return the report of a layer that stays dense, and why."""
    rows, columns = weight_matrix(layer).shape
    size = rows * columns
    return LayerReport(
        name, (rows, columns), None, size, size * moments.positions, 0.0, 0.0, None, (), 0.0, reason
    )


def factor_report(
    name: str, layer: Layer, moments: Moments, approximation: Tensor, rank: int, has_bias: bool
) -> LayerReport:
    """Return the report of a layer whose weight is now `approximation`, without what its method alone knows."""
    weight = weight_matrix(layer)
    rows, columns = weight.shape
    difference = weight - approximation
    size = rank * (rows + columns)
    return LayerReport(
        layer=name,
        shape=(rows, columns),
        rank=rank,
        parameters=size + rows * (has_bias and layer.bias is None),
        macs=size * moments.positions,
        weight_error=_ratio(float(difference.norm()), float(weight.norm())),
        output_error=_ratio(_output_norm(difference, moments), _output_norm(weight, moments)),
        optimum_ratio=None,
        curve=(),
        seconds=0.0,
        reason="",
    )


def _output_norm(weight: Tensor, moments: Moments) -> float:
    """Return the root mean square of the outputs W x about their mean, summed over the outputs."""
    return float(((weight @ moments.covariance) * weight).sum().clamp_min(0).sqrt())


def _ratio(error: float, whole: float) -> float:
    return error / whole if whole > 0 else 0.0
