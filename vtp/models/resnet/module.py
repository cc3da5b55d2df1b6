"""ResNet-18 (arXiv:1512.03385) in its form for small images, built from a spec.

A 3×3 stem of stride 1 and no max-pooling, as is usual for CIFAR; basic blocks; projection shortcuts (1×1
convolution and batch norm) where a block changes the shape. Each block has its own inner channels, so that a
pruned model is an ordinary one. Shape suffixes: B images, C channels, H and W pixels.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vtp.models.base import Model
from vtp.models.layers import ImportanceScore
from vtp.models.resnet.spec import BasicBlockSpec, ResNetSpec


class BasicBlock(nn.Module):
    """Two 3×3 convolutions beside a shortcut; the channels between them may carry importance scores."""

    def __init__(self, inputs: int, block: BasicBlockSpec, scored: tuple[str, ...]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, block.inner, 3, stride=block.stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(block.inner)
        self.inner = ImportanceScore(block.inner, trailing_axes=2) if "block.inner" in scored else nn.Identity()
        self.conv2 = nn.Conv2d(block.inner, block.outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(block.outputs)
        self.shortcut: nn.Module = nn.Identity()
        self.shortcut_norm: nn.Module = nn.Identity()
        if block.stride != 1 or inputs != block.outputs:
            self.shortcut = nn.Conv2d(inputs, block.outputs, 1, stride=block.stride, bias=False)
            self.shortcut_norm = nn.BatchNorm2d(block.outputs)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, outputs, H / stride, W / stride)."""
        inner = self.inner(F.relu(self.norm1(self.conv1(x_BCHW))))
        return F.relu(self.norm2(self.conv2(inner)) + self.shortcut_norm(self.shortcut(x_BCHW)))


class ResNet(Model):
    """Stem, blocks, mean over the pixels, linear head."""

    writers = ("conv2",)
    spec: ResNetSpec

    def __init__(self, spec: ResNetSpec) -> None:
        super().__init__(spec)
        self.stem = nn.Conv2d(spec.channels, spec.stem, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(spec.stem)
        self.blocks = nn.ModuleList()
        channels = spec.stem
        for block in spec.blocks:
            self.blocks.append(BasicBlock(channels, block, spec.scored))
            channels = block.outputs
        self.head = nn.Linear(channels, spec.classes)

    def embed(self, images_BCHW: Tensor) -> Tensor:
        """The stem's output (B, stem, H, W)."""
        return F.relu(self.stem_norm(self.stem(self.normalised(images_BCHW))))

    def classify(self, x_BCHW: Tensor) -> Tensor:
        """Logits of the mean over the pixels."""
        return self.head(x_BCHW.mean((2, 3)))  # type: ignore[no-any-return]

    def norm_of(self, name: str) -> nn.BatchNorm2d:
        """The one of its own that each convolution has."""
        block, _, layer = name.rpartition(".")
        norm = {"conv1": "norm1", "conv2": "norm2", "shortcut": "shortcut_norm"}[layer]
        return cast(nn.BatchNorm2d, self.get_submodule(f"{block}.{norm}"))

    @torch.no_grad()
    def initialise(self) -> None:
        """He-normal convolutions by fan-out (arXiv:1502.01852), zero head, a zero last norm in each block.

        So a block starts as its shortcut, which eases the first epochs (arXiv:1706.02677), and the zero head
        starts training at the uniform distribution, as that of the vision transformer here.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.BatchNorm2d | ImportanceScore):
                module.reset_parameters()
        for name, parameter in self.named_parameters():
            if name.endswith("norm2.weight") or name.startswith("head."):
                nn.init.zeros_(parameter)
