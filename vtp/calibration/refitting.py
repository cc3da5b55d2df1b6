"""Refit layers of a compressed model, in closed form and without training.

A layer that reads something else than it did before is fitted anew, by least squares on calibration images, so
that from what it reads now it makes what it made in the model before. No labels are used.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vtp.calibration.watching import BATCH, carried_directions, input_rows, output_rows, watched
from vtp.models import Model, from_state


@torch.no_grad()
def refitted(
    model: Model,
    reference: Model,
    images: Tensor,
    layers: Mapping[str, str],
    change: Callable[[Model, str, Tensor, Tensor], None],
) -> Model:
    """Return `model` with some of its layers refitted to the outputs of layers of `reference`.

    Block after block and layer after layer: what is fitted in one is what the next ones get to see.

    Args:
        model: the compressed model.
        reference: the model that it was made of, on the same device.
        images: uint8 (N, C, H, W), on that device.
        layers: layer of the model -> layer of the reference whose outputs it is to give, block after block.
        change: adds to the weight (out, in) and the bias (out) of a layer of the new model, by its name; without
            a bias the second is zero.
    """
    result = from_state(model.spec, model.state_dict()).eval()
    theirs = [reference.embed(batch) for batch in images.split(BATCH)]
    ours = [result.embed(batch) for batch in images.split(BATCH)]
    for index in range(len(result.blocks)):
        fitted = {name: other for name, other in layers.items() if name.startswith(f"blocks.{index}.")}
        theirs, wanted = _run_and_watch(reference, index, theirs, set(fitted.values()))
        for name, other in fitted.items():
            change(result, name, *_fit(result, index, name, ours, wanted[other]))
        ours = [result.run_block(index, x) for x in ours]
    return result


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


def _fit(
    model: Model, index: int, name: str, batches: list[Tensor], wanted: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """Return what the layer `name` of block `index` lacks, given what the block reads and the layer is to give."""
    layer = model.get_submodule(name)
    total: Sums | None = None
    with watched({name: layer}) as seen, _left_after(layer):
        for x, target in zip(batches, wanted, strict=True):
            with suppress(_Reached):
                model.run_block(index, x)
            inputs, outputs = seen[name]
            part = Sums.of(input_rows(layer, inputs).double(), output_rows(layer, target - outputs).double())
            total = part if total is None else total + part
    assert total is not None
    return least_squares(total, with_shift=layer.bias is not None)


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


@dataclass
class Sums:
    """Of the inputs x (in) and what is missing from the outputs, r = y - W x - b (out), over rows."""

    rows: int
    x: Tensor
    r: Tensor
    xx: Tensor
    rx: Tensor
    rr: Tensor

    @classmethod
    def of(cls, x: Tensor, r: Tensor) -> "Sums":
        return cls(len(x), x.sum(0), r.sum(0), x.T @ x, r.T @ x, r.square().sum(0))

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))


def least_squares(sums: Sums, with_shift: bool) -> tuple[Tensor, Tensor]:
    """Return D (out, in) and d (out) that make D x + d nearest to r, shrunk where chance explains the fit.

    Directions in which nothing flows (`carried_directions`) are left alone. A fit of p regressors to n rows
    explains p/n of pure noise: each output's share of D is multiplied by max(0, 1 - 1/F), where F is the F
    statistic of its regression (the positive-part James-Stein factor), so that a correction that few images would
    suggest by chance is not made.
    """
    mean = sums.x / sums.rows if with_shift else torch.zeros_like(sums.x)
    missing = sums.r / sums.rows if with_shift else torch.zeros_like(sums.r)
    xx = sums.xx - sums.rows * torch.outer(mean, mean)
    rx = sums.rx - sums.rows * torch.outer(missing, mean)
    rr = (sums.rr - sums.rows * missing.square()).clamp_min(0)
    values, basis = carried_directions(xx)
    regressors = len(values)
    freedom = sums.rows - regressors - with_shift
    if freedom <= 0:
        return torch.zeros_like(rx), missing
    change = (rx @ basis / values) @ basis.T
    explained = (change * rx).sum(1)
    chance = regressors / freedom * (rr - explained).clamp_min(0)
    kept = (1 - chance / explained.clamp_min(torch.finfo(explained.dtype).tiny)).clamp_min(0)
    change = change * kept[:, None]
    return change, missing - change @ mean
