"""What flows into each layer on calibration images: mean and covariance of its inputs. No labels are used."""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vtp.models import Model, factorisable

BATCH = 128
Sums = tuple[Tensor, Tensor, int]


@dataclass(frozen=True)
class Moments:
    """First and second moment of a layer's inputs, over all images and positions.

    Attributes:
        mean: (in,), float64.
        covariance: (in, in), float64, about the mean; singular where inputs are dead or fewer than dimensions.
        positions: how many input rows the layer sees for each image (tokens, or pixels of its output).
    """

    mean: Tensor
    covariance: Tensor
    positions: int


def moments(model: Model, images: Tensor) -> dict[str, Moments]:
    """Return layer -> moments of the inputs of every factorisable layer, on the CPU.

    Args:
        model: on the device of `images`; it runs in evaluation mode.
        images: uint8 (N, C, H, W).

    Sums are kept in float64, of the differences from the first row that a layer sees: rounding would hide which
    directions carry nothing, in float32 or beside a large mean. Layers that read the same tensor (query, key
    and value) share one sum.
    """
    layers = factorisable(model)
    sums: dict[str, Sums] = {}
    origins: dict[str, Tensor] = {}
    latest: list[tuple[Tensor, Tensor, Sums]] = []

    def add(name: str, layer: nn.Module, inputs: Tensor) -> None:
        if not (latest and latest[0][0] is inputs):
            rows = input_rows(layer, inputs).double()
            origin = origins.get(name, rows[0].clone())
            latest[:] = [(inputs, origin, _sums(rows - origin))]
        _, origins[name], (total, squares, count) = latest[0]
        before = sums.get(name, (0.0, 0.0, 0))
        sums[name] = (before[0] + total, before[1] + squares, before[2] + count)

    hooks = [
        layer.register_forward_pre_hook(lambda layer, inputs, name=name: add(name, layer, inputs[0]))
        for name, layer in layers.items()
    ]
    try:
        with torch.no_grad():
            for batch in images.split(BATCH):
                model.eval()(batch)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: _moments(origins[name], *sums[name], len(images)) for name in layers}


def calibration_images(images: Tensor, count: int, seed: int) -> Tensor:
    """Return `count` of the images (all, if there are fewer), drawn at random by `seed`, in their order."""
    drawn = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:count]
    return images[drawn.sort().values.to(images.device)]


def input_rows(layer: nn.Module, inputs: Tensor) -> Tensor:
    """Return the inputs as rows that the layer's weight, flattened to (out, in), multiplies: (rows, in)."""
    if isinstance(layer, nn.Conv2d):
        inputs = F.unfold(
            inputs,
            layer.kernel_size,
            dilation=layer.dilation,
            padding=cast(tuple[int, ...], layer.padding),
            stride=layer.stride,
        ).transpose(1, 2)
    return inputs.flatten(0, -2)


def _sums(rows: Tensor) -> Sums:
    return rows.sum(0), rows.T @ rows, len(rows)


def _moments(origin: Tensor, total: Tensor, squares: Tensor, count: int, images: int) -> Moments:
    shift = total / count
    covariance = squares / count - torch.outer(shift, shift)
    return Moments((origin + shift).cpu(), covariance.cpu(), count // images)


def square_root(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Return the symmetric square root of a positive semi-definite matrix and that root's pseudo-inverse.

    Eigenvalues up to n·eps times the largest, the rounding of the sums, count as zero: directions in which
    nothing flows are left out of both.
    """
    values, vectors = torch.linalg.eigh(covariance)
    carried = values > len(values) * torch.finfo(values.dtype).eps * values[-1]
    roots = values[carried].sqrt()
    basis = vectors[:, carried]
    return (basis * roots) @ basis.T, (basis / roots) @ basis.T
