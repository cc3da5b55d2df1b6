"""Square roots of moments, in which errors count."""

from collections.abc import Mapping

import torch
from torch import Tensor

from vtp.calibration.moments import Moments
from vtp.calibration.watching import carried_directions
from vtp.errors import UserError
from vtp.numerics import sqrt

UNSEEN = 1e-3
"""What an output counts in directions in which no gradient was seen, as a part of the mean over all directions.

It settles what a few calibration images leave open; its size matters little as long as it is small.
"""


class Root:
    """The symmetric square root of a positive semi-definite matrix, and its pseudo-inverse.

    Both are as large as the matrix and are made when they are asked for, until the root is released.

    Args:
        squares: the matrix (n, n), float64.
        ridge: what is added to its diagonal.
    """

    def __init__(self, squares: Tensor, ridge: float = 0.0) -> None:
        self._squares, self._ridge = squares, ridge
        self._made: tuple[Tensor, Tensor] | None = None

    @property
    def root(self) -> Tensor:
        """The root, (n, n)."""
        return self._make()[0]

    @property
    def inverse(self) -> Tensor:
        """Its pseudo-inverse, (n, n)."""
        return self._make()[1]

    def release(self) -> None:
        """Give back the memory of both."""
        self._made = None

    def _make(self) -> tuple[Tensor, Tensor]:
        if self._made is None:
            squares = self._squares
            if self._ridge:
                squares = squares + self._ridge * torch.eye(len(squares), dtype=squares.dtype)
            self._made = square_root(squares)
        return self._made


def check_gradients(flows: Mapping[str, Moments]) -> None:
    """Raise UserError naming the last layer to which a gradient came back that is no number, or infinite."""
    for name, flow in reversed(list(flows.items())):
        if not flow.gradients.diagonal().isfinite().all():
            raise UserError(
                f"layer {name}: a gradient that comes back to it from the logits is not finite on the calibration "
                "images, as where a norm divides by zero; use the metric activation, or other images"
            )


def gradient_ridge(flow: Moments) -> float:
    """Return what the gradients' moment of a layer gains on its diagonal, for directions that none was seen in."""
    mean = float(flow.gradients.diagonal().mean())
    # A layer that moves no loss costs none however it is cut, yet is cut as well as can be.
    return UNSEEN * mean if mean > 0 else torch.finfo(flow.gradients.dtype).tiny ** 0.5


def square_root(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Return the symmetric square root of a positive semi-definite matrix and that root's pseudo-inverse.

    Directions in which nothing flows (`carried_directions`) are left out of both.
    """
    values, basis = carried_directions(covariance)
    roots = sqrt(values)
    return (basis * roots) @ basis.T, (basis / roots) @ basis.T
