"""Small models of other libraries, random images for them, and what `compress` makes of them."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vtp.data.sources.torchvision_shim  # noqa: F401  (before timm, which imports torchvision)
from vtp import Report, compress


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def small_vit(**changes: Any) -> nn.Module:
    import timm

    small = {"img_size": 16, "patch_size": 4, "in_chans": 1, "embed_dim": 32, "depth": 2, "num_heads": 4}
    return timm.create_model("vit_tiny_patch16_224", **small | {"num_classes": 10} | changes)


def small_swin() -> nn.Module:
    import timm

    small = {"img_size": 32, "patch_size": 2, "window_size": 4, "depths": (1, 1), "embed_dim": 16}
    return timm.create_model("swin_tiny_patch4_window7_224", **small, num_heads=(1, 2), num_classes=10, in_chans=1)


def small_convnext() -> nn.Module:
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    return ConvNeXt([CNBlockConfig(16, 32, 1), CNBlockConfig(32, None, 1)], num_classes=10)


def small_torchvision_vit() -> nn.Module:
    from torchvision.models import VisionTransformer

    return VisionTransformer(16, 4, 2, 2, 16, 32, num_classes=10)


def small_resnet() -> nn.Module:
    """With activations that overwrite what they read."""
    from torchvision.models.resnet import BasicBlock, ResNet

    model = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=10, width_per_group=64)
    model.layer3, model.layer4, model.fc = nn.Identity(), nn.Identity(), nn.Linear(128, 10)
    return model


SHAPES: dict[Callable[[], nn.Module], tuple[int, ...]] = {
    small_vit: (1, 16, 16),
    small_swin: (1, 32, 32),
    small_convnext: (3, 32, 32),
    small_torchvision_vit: (3, 16, 16),
    small_resnet: (3, 16, 16),
}


@cache
def compressed(build: Callable[[], nn.Module]) -> tuple[nn.Module, nn.Module, Report, Tensor]:
    """A model with random weights, what became of it, the report, and the images."""
    torch.manual_seed(0)
    model = build()
    images = normal(24, *SHAPES[build])
    small, report = compress(model, images, keep=0.5)
    return model, small, report, images


models = pytest.mark.parametrize("build", list(SHAPES))
