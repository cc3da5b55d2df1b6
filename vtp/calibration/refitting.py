"""Refit layers of a compressed model, in closed form and without training.

A layer that reads something else than it did before is fitted anew, by least squares on calibration images, so
that from what it reads now it makes what was made of what was read before. No labels are used.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from vtp.calibration.moments import Inputs
from vtp.calibration.watching import BATCH, carried_directions, input_rows, output_rows, watched
from vtp.models import Model, from_state


@torch.no_grad()
def refitted(
    model: Model,
    reference: Model,
    images: Tensor,
    layers: Mapping[str, Model],
    change: Callable[[Model, str, "Sums"], None],
) -> Model:
    """Return `model` with some of its layers fitted anew to what the layers of that name give elsewhere.

    Block after block and layer after layer: what is fitted in one is what the next ones get to see.

    Args:
        model: the compressed model.
        reference: the model that it is to come near to, on the same device.
        images: uint8 (N, C, H, W), on that device.
        layers: name of a layer -> the model whose layer of that name says what it is to give. That is asked for
            with each block reading what the same block of `reference` reads.
        change: gives a layer of the new model, by its name, another weight and bias; of what it reads there and
            what it is to give it gets the sums.
    """
    result = from_state(model.spec, model.state_dict()).eval()
    theirs = [reference.embed(batch) for batch in images.split(BATCH)]
    ours = [result.embed(batch) for batch in images.split(BATCH)]
    for index in range(len(result.blocks)):
        fitted = {name: source for name, source in layers.items() if name.startswith(f"blocks.{index}.")}
        theirs, wanted = _aims(reference, index, theirs, fitted)
        for name in fitted:
            change(result, name, _sums(result, index, name, ours, wanted.pop(name)))
        ours = [result.run_block(index, x) for x in ours]
    return result


def _aims(
    reference: Model, index: int, batches: list[Tensor], fitted: Mapping[str, Model]
) -> tuple[list[Tensor], dict[str, list[Tensor]]]:
    """Return what block `index` of the reference makes of each batch, and what each layer is to give for it."""
    runs = {
        source: _run_and_watch(source, index, batches, {name for name, other in fitted.items() if other is source})
        for source in {*fitted.values(), reference}
    }
    outputs, _ = runs[reference]
    return outputs, {name: runs[source][1][name] for name, source in fitted.items()}


def _run_and_watch(
    model: Model, index: int, batches: list[Tensor], names: set[str]
) -> tuple[list[Tensor], dict[str, list[Tensor]]]:
    """Return what block `index` makes of each batch, and what each of the named layers gave."""
    outputs: list[Tensor] = []
    given: dict[str, list[Tensor]] = {name: [] for name in names}
    with watched({name: model.get_submodule(name) for name in given}) as seen:
        for x in batches:
            outputs.append(model.run_block(index, x))
            for name, values in given.items():
                values.append(seen[name][1])
    return outputs, given


def _sums(model: Model, index: int, name: str, batches: list[Tensor], wanted: list[Tensor]) -> "Sums":
    """Return the sums of what a layer reads, where block `index` reads `batches`, and of what it is to give."""
    layer = model.get_submodule(name)
    reader, writer = getattr(layer, "right", layer), getattr(layer, "left", layer)  # of a pair of factors
    total: Sums | None = None
    with watched({name: layer}) as seen, _left_after(layer):
        for x, target in zip(batches, wanted, strict=True):
            with suppress(_Reached):
                model.run_block(index, x)
            inputs, outputs = input_rows(reader, seen[name][0]).double(), output_rows(writer, target).double()
            if total is None:
                total = Sums.none(inputs[0] if layer.bias is not None else torch.zeros_like(inputs[0]), outputs[0])
            total.add(inputs, outputs)
    assert total is not None
    return total.cpu()


class _Reached(Exception):
    """The layer has been called; what follows it in the block need not run."""


@contextmanager
def _left_after(layer: nn.Module) -> Iterator[None]:
    """Leave every forward pass by `_Reached` as soon as `layer` has given its output."""

    def leave(*_: object) -> None:
        raise _Reached

    hook = layer.register_forward_hook(leave)
    try:
        yield
    finally:
        hook.remove()


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
