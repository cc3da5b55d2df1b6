"""What became of one unit: its rank, what it costs now, and what that lost."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class UnitReport:
    """What became of one unit, before a correction.

    Attributes:
        unit: its name.
        shape: (out, in) of the dense matrix; the weight of a convolution is flattened.
        rank: of the factors, or None where it stays dense.
        parameters, parameters_dense: weights that it has now, with a bias that it did not have before, and had.
        macs, macs_dense: multiply-accumulates that they cost for one image.
        weight_error: ‖W - Ŵ‖ / ‖W‖ in the Frobenius norm.
        output_error: the same of the outputs on the calibration images, about their mean.
        optimum_ratio: the error that the method minimised over the least one possible at this rank
            (Eckart-Young), or None where the unit is dense or the least error is zero.
        curve: the error that the method minimises, relative to the whole, at evenly spaced ranks from 0 to full;
            for `svd` it is the tail of the spectrum. Empty where the unit stays dense.
        predicted_loss: nats that the metric `loss` expects the predictions to move, half the squared error; None
            for the other metrics, whose errors are in another unit.
        seconds: what decomposing the matrix took, zero where it was not; no part of a result that is compared.
        reason: why the unit stays dense, else empty.
    """

    unit: str
    shape: tuple[int, int]
    rank: int | None
    parameters: int
    parameters_dense: int
    macs: int
    macs_dense: int
    weight_error: float
    output_error: float
    optimum_ratio: float | None = None
    curve: tuple[float, ...] = ()
    predicted_loss: float | None = None
    seconds: float = 0.0
    reason: str = ""
