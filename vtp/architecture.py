"""From the section `model` of params.yaml to the spec of a dense model."""

from collections.abc import Callable
from typing import Any

from vtp.models.resnet import BasicBlockSpec, ResNetSpec
from vtp.models.spec import ModelSpec
from vtp.models.vit import BlockSpec, HeadSpec, ViTSpec
from vtp.params import ModelParams, ResNetParams, ViTParams


def spec_of(params: ModelParams, *, image_size: int, channels: int, classes: int) -> ModelSpec:
    """Return the spec of the dense model of `params`, for images of this size (pixels) and these classes."""
    common = {
        "name": params.name,
        "image_size": image_size,
        "channels": channels,
        "classes": classes,
        "scored": (),
        "factors": {},
    }
    return SPEC_OF[type(params)](params, common)


def _vit_spec(params: ViTParams, common: dict[str, Any]) -> ViTSpec:
    head = HeadSpec(params.head_dim, params.head_dim)
    return ViTSpec(
        **common,
        patch_size=params.patch_size,
        dim=params.dim,
        head_dim=params.head_dim,
        blocks=(BlockSpec((head,) * params.heads, params.mlp_dim),) * params.depth,
        dropout=params.dropout,
    )


def _resnet18_spec(params: ResNetParams, common: dict[str, Any]) -> ResNetSpec:
    """Four stages of two blocks; each stage doubles the channels of the one before and halves its pixels."""
    blocks = []
    for stage in range(4):
        width = params.width * 2**stage
        blocks += [BasicBlockSpec(width, width, 1 if stage == 0 else 2), BasicBlockSpec(width, width, 1)]
    return ResNetSpec(**common, stem=params.width, blocks=tuple(blocks))


SPEC_OF: dict[type, Callable[[Any, dict[str, Any]], ModelSpec]] = {
    ViTParams: _vit_spec,
    ResNetParams: _resnet18_spec,
}
