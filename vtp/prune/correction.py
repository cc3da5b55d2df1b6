"""After pruning, refit what writes to the residual stream, in closed form and without training.

Each layer whose output is added to the residual stream has lost inputs. Its weight is fitted anew, by least
squares on calibration images, so that from the inputs that are left, as the slim model computes them, it makes
what it made in the unpruned model. No labels are used.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vtp.calibration.watching import BATCH, carried_directions, input_rows, output_rows, watched
from vtp.models import Model, from_state


@torch.no_grad()
def corrected(model: Model, reference: Model, images: Tensor) -> Model:
    """Return `model` with its writers (`Model.writers`) refitted to the outputs of those of `reference`.

    Block after block: what is fitted in one is what the next ones get to see.

    Args:
        model: the slim model.
        reference: the scored model that it was cut from, on the same device.
        images: uint8 (N, C, H, W), on that device.
    """
    result = from_state(model.spec, model.state_dict()).eval()
    theirs = [reference.embed(batch) for batch in images.split(BATCH)]
    ours = [result.embed(batch) for batch in images.split(BATCH)]
    for index in range(len(result.blocks)):
        theirs, wanted = _run_and_watch(reference, index, theirs)
        for name in result.writers:
            _refit(result, index, name, ours, wanted[name])
        ours = [result.run_block(index, x) for x in ours]
    return result


def _run_and_watch(
    model: Model, index: int, batches: list[Tensor]
) -> tuple[list[Tensor], dict[str, list[Tensor]]]:
    """Return what block `index` makes of each batch, and what each of its writers gave."""
    outputs: list[Tensor] = []
    given: dict[str, list[Tensor]] = {name: [] for name in model.writers}
    with watched({name: model.blocks[index].get_submodule(name) for name in given}) as seen:
        for x in batches:
            outputs.append(model.run_block(index, x))
            for name, values in given.items():
                values.append(seen[name][1])
    return outputs, given


@dataclass
class _Sums:
    """Of the inputs x (in) and what is missing from the outputs, r = y - W x - b (out), over rows."""

    rows: int
    x: Tensor
    r: Tensor
    xx: Tensor
    rx: Tensor
    rr: Tensor

    @classmethod
    def of(cls, x: Tensor, r: Tensor) -> "_Sums":
        return cls(len(x), x.sum(0), r.sum(0), x.T @ x, r.T @ x, r.square().sum(0))

    def __add__(self, other: "_Sums") -> "_Sums":
        return _Sums(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))


def _refit(model: Model, index: int, name: str, batches: list[Tensor], wanted: list[Tensor]) -> None:
    """Refit the layer `name` of block `index`, given what the block reads and what the layer is to give."""
    layer = model.blocks[index].get_submodule(name)
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    weight = layer.weight.flatten(1).double()
    total: _Sums | None = None
    with watched({name: layer}) as seen:
        for x, target in zip(batches, wanted, strict=True):
            model.run_block(index, x)
            inputs, outputs = seen[name]
            part = _Sums.of(input_rows(layer, inputs).double(), output_rows(layer, target - outputs).double())
            total = part if total is None else total + part
    assert total is not None
    change, shift = _least_squares(total, with_shift=layer.bias is not None)
    layer.weight.copy_((weight + change).view_as(layer.weight))
    if layer.bias is not None:
        layer.bias.add_(shift)


def _least_squares(sums: _Sums, with_shift: bool) -> tuple[Tensor, Tensor]:
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
