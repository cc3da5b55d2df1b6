"""Calibration: images without labels, and what layers read and give on them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BATCH = 128


def calibration_images(images: Tensor, count: int, seed: int) -> Tensor:
    """Return `count` of the images (all, if there are fewer), drawn at random by `seed`, in their order."""
    drawn = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:count]
    return images[drawn.sort().values.to(images.device)]


@contextmanager
def watched(layers: Mapping[str, nn.Module]) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """Give name -> (input, output) of each layer's latest call, up to date until the context is left."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    hooks = [
        layer.register_forward_hook(
            lambda layer, inputs, output, name=name: seen.update({name: (inputs[0], output)})
        )
        for name, layer in layers.items()
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def unfolding(layer: nn.Module) -> tuple[object, ...]:
    """Return how the layer cuts its input into rows: layers of one input and one unfolding read the same rows."""
    if isinstance(layer, nn.Conv2d):
        return (layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    return ()


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


def output_rows(layer: nn.Module, outputs: Tensor) -> Tensor:
    """Return a layer's outputs, (…, out) or those of a convolution (B, out, H, W), as rows: (rows, out)."""
    return (outputs.movedim(1, -1) if isinstance(layer, nn.Conv2d) else outputs).flatten(0, -2)


def carried_directions(squares: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues (k) and eigenvectors (n, k) of a sum of squares (n, n), but for those that carry nothing.

    Eigenvalues up to n·eps times the largest, the rounding of the sums, count as zero.
    """
    values, vectors = torch.linalg.eigh(squares)
    carried = values > len(values) * torch.finfo(values.dtype).eps * values[-1]
    return values[carried], vectors[:, carried]
