"""Calibration: images without labels, and what a layer reads and gives on them as rows of a matrix."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BATCH = 128


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


def output_rows(outputs: Tensor) -> Tensor:
    """Return a layer's outputs, (…, out) or those of a convolution (B, out, H, W), as rows: (rows, out)."""
    return (outputs.movedim(1, -1) if outputs.ndim == 4 else outputs).flatten(0, -2)
