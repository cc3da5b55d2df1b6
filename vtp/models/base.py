"""What the models of every family share: a spec, and the normalisation of the pixels they are given."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from vtp.models.spec import ModelSpec

IMAGES = 250  # at once, at most
ENTRIES = 2**27  # at most, of the largest tensor at once: half a gigabyte in float32


def in_batches(images: Tensor, spec: ModelSpec, most: int = IMAGES, kept: int = 1) -> tuple[Tensor, ...]:
    """Return images (N, …) in batches of what a model of `spec` takes at once.

    Args:
        images: of the model's size.
        spec: the model's.
        most: images at once, where they are small.
        kept: how many tensors of the largest size are kept at a time; more than one where there are gradients.
    """
    size = max(1, min(most, ENTRIES // (kept * spec.largest_activation)))
    return images.split(size)  # type: ignore[no-any-return]


class Model(nn.Module, ABC):
    """Images (B, C, H, W), pixel values 0 to 255, uint8 or floating, to logits (B, classes).

    The pixel mean and standard deviation of the training split are buffers, so that a model takes raw pixels.
    The submodule `blocks` holds the layers that may be factorised. Modules are made by `vtp.models.build`,
    which also puts in the factorised layers.

    Attributes:
        writers: the layers of a block, by their names in it, whose outputs are added to the residual stream.
        spec: what the module was built from.
        mean, std: of the pixels, by channel (C,).
    """

    writers: ClassVar[tuple[str, ...]]
    spec: ModelSpec
    blocks: nn.ModuleList
    mean: Tensor
    std: Tensor

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.register_buffer("mean", torch.zeros(spec.channels))
        self.register_buffer("std", torch.ones(spec.channels))

    def normalised(self, images_BCHW: Tensor) -> Tensor:
        """Return the pixels with mean 0 and deviation 1 by channel, in the dtype of the model."""
        pixels = images_BCHW.to(self.mean.dtype)
        return (pixels - self.mean[:, None, None]) / self.std[:, None, None]

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits (B, classes) of images of pixel values 0 to 255, uint8 or floating."""
        x = self.embed(images_BCHW)
        for index in range(len(self.blocks)):
            x = self.run_block(index, x)
        return self.classify(x)

    def begin_epoch(self, done: float) -> None:
        """Be told, before each epoch of a training, which part of all of them is done after it (0 to 1)."""

    @abstractmethod
    def embed(self, images_BCHW: Tensor) -> Tensor:
        """Return what the first block reads."""

    def run_block(self, index: int, x: Tensor) -> Tensor:
        """Return what block `index` makes of its input."""
        return self.blocks[index](x)  # type: ignore[no-any-return]

    @abstractmethod
    def classify(self, x: Tensor) -> Tensor:
        """Return the logits (B, classes) from the output of the last block."""

    def head_dims(self) -> dict[str, list[int]]:
        """Return site -> the dims of each head, for the sites of scores whose dims are those of heads."""
        return {}

    def norm_of(self, name: str) -> nn.BatchNorm2d | None:
        """Return the batch norm that reads what layer `name` of a block gives, and nothing else, or None."""
        return None

    @abstractmethod
    def initialise(self) -> None:
        """Give every parameter and buffer but `mean` and `std` its value before training."""
