"""What a layer is to make of what it reads, by least squares: the sums over rows, and the fit, which is shrunk."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from vtp.calibration.moments import Inputs
from vtp.calibration.watching import carried_directions, input_rows, output_rows


@dataclass(eq=False)
class Sums:
    """Of what a layer reads, x (in), and is to give, y (out), over rows; float64.

    Attributes:
        origin: subtracted from x: beside a large mean, rounding would hide in which directions nothing flows. Zero
            for a layer without a bias.
        rows, x, y, xx, yx, yy: how many, and the sums of x - origin, y, and their products; of y² by output.
    """

    origin: Tensor
    rows: int
    x: Tensor
    y: Tensor
    xx: Tensor
    yx: Tensor
    yy: Tensor

    @classmethod
    def none(cls, origin: Tensor, y: Tensor) -> "Sums":
        """Return those of no rows; y: any output."""
        x, y = torch.zeros_like(origin), torch.zeros_like(y)
        return cls(origin.clone(), 0, x, y, torch.outer(x, x), torch.outer(y, x), y.clone())

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add rows x (rows, in) and y (rows, out)."""
        x = x - self.origin
        self.rows += len(x)
        self.x += x.sum(0)
        self.y += y.sum(0)
        self.xx += x.T @ x
        self.yx += y.T @ x
        self.yy += y.square().sum(0)

    def cpu(self) -> "Sums":
        """Return them on the CPU."""
        return Sums(
            self.origin.cpu(), self.rows, self.x.cpu(), self.y.cpu(), self.xx.cpu(), self.yx.cpu(), self.yy.cpu()
        )

    def inputs(self, about_mean: bool) -> Inputs:
        """Return the moments of x; the second about zero where there is no mean to be about."""
        mean = self.x / self.rows if about_mean else torch.zeros_like(self.x)
        return Inputs(self.origin + mean, self.xx / self.rows - torch.outer(mean, mean))

    def missing(self, weight: Tensor, bias: Tensor) -> "Sums":
        """Return the sums of x and of what W x + b lacks, y - W x - b; W (out, in), b (out)."""
        bias = bias + weight @ self.origin
        made = weight @ self.x
        squares = ((weight @ self.xx - 2 * self.yx) * weight).sum(1)
        return replace(
            self,
            y=self.y - made - self.rows * bias,
            yx=self.yx - weight @ self.xx - torch.outer(bias, self.x),
            yy=self.yy + squares - bias * (2 * (self.y - made) - self.rows * bias),
        )

    def through(self, right: Tensor) -> "Sums":
        """Return the sums of R x and y; R (rank, in)."""
        xx, yx = right @ self.xx @ right.T, self.yx @ right.T
        return replace(self, origin=right @ self.origin, x=right @ self.x, xx=xx, yx=yx)


def summed(total: Sums | None, layer: nn.Module, read: Tensor, target: Tensor) -> Sums:
    """Return the sums (None: of nothing yet) with what a layer, or pair of factors, reads and is to give."""
    reader, writer = getattr(layer, "right", layer), getattr(layer, "left", layer)
    inputs, outputs = input_rows(reader, read).double(), output_rows(writer, target).double()
    if total is None:
        total = Sums.none(inputs[0] if layer.bias is not None else torch.zeros_like(inputs[0]), outputs[0])
    total.add(inputs, outputs)
    return total


def fit(layer: nn.Linear | nn.Conv2d, sums: Sums, with_shift: bool) -> tuple[Tensor, Tensor]:
    """Return the weight (out, in) and bias (out) of a layer, float64 on the CPU, fitted to what it is to give."""
    weight = layer.weight.flatten(1).double().cpu()
    bias = torch.zeros_like(sums.y) if layer.bias is None else layer.bias.double().cpu()
    change, shift = least_squares(sums.missing(weight, bias), with_shift)
    return weight + change, bias + shift


def least_squares(sums: Sums, with_shift: bool) -> tuple[Tensor, Tensor]:
    """Return D (out, in) and d (out) that make D x + d nearest to y, shrunk where chance explains the fit.

    Directions in which nothing flows (`carried_directions`) are left alone. A fit of p regressors to n rows
    explains p/n of pure noise: each output's share of D is multiplied by max(0, 1 - 1/F), where F is the F
    statistic of its regression (the positive-part James-Stein factor), so that a correction that few images would
    suggest by chance is not made.
    """
    x_mean = sums.x / sums.rows if with_shift else torch.zeros_like(sums.x)
    y_mean = sums.y / sums.rows if with_shift else torch.zeros_like(sums.y)
    xx = sums.xx - sums.rows * torch.outer(x_mean, x_mean)
    yx = sums.yx - sums.rows * torch.outer(y_mean, x_mean)
    yy = (sums.yy - sums.rows * y_mean.square()).clamp_min(0)
    values, basis = carried_directions(xx)
    regressors = len(values)
    freedom = sums.rows - regressors - with_shift
    if freedom <= 0:
        return torch.zeros_like(yx), y_mean
    change = (yx @ basis / values) @ basis.T
    explained = (change * yx).sum(1)
    chance = regressors / freedom * (yy - explained).clamp_min(0)
    kept = (1 - chance / explained.clamp_min(torch.finfo(explained.dtype).tiny)).clamp_min(0)
    change = change * kept[:, None]
    return change, y_mean - change @ (sums.origin + x_mean)
