"""Vision transformers of torchvision (`vit_b_16`, `vit_b_32`, `vit_l_16`, `vit_l_32`, `vit_h_14`)."""

import math
from typing import Any

import torch
from torch import nn

from vtp.errors import UserError
from vtp.models.family import State
from vtp.models.vit.pretrained.reading import (
    Architecture,
    Library,
    Preprocessing,
    activation,
    layers,
    norm_epsilon,
    the_one,
)
from vtp.models.vit.spec import Resize

MODELS = ("vit_b_16", "vit_b_32", "vit_l_16", "vit_l_32", "vit_h_14")
BLOCK = r"encoder\.layers\.encoder_layer_(?P<block>\d+)\."
NAMES = {
    "class_token": "class_token",
    r"encoder\.pos_embedding": "positions",
    **layers("", "", {"conv_proj": "embedding", r"encoder\.ln": "norm"}),
    **layers(r"heads\.", "", {"head": "head", "pre_logits": "representation"}),
    **layers(
        BLOCK,
        r"blocks.\g<block>.",
        {
            "ln_1": "attention_norm",
            r"self_attention\.out_proj": "attention.output",
            "ln_2": "mlp_norm",
            r"mlp\.(?:0|linear_1)": "mlp.up",
            r"mlp\.(?:3|linear_2)": "mlp.down",
        },
    ),
    rf"{BLOCK}self_attention\.in_proj_(?P<kind>weight|bias)": r"blocks.\g<block>.attention.qkv.\g<kind>",
}
PARTS = (
    "VisionTransformer|Encoder|EncoderBlock|MLPBlock|Sequential|MultiheadAttention|NonDynamicallyQuantizableLinear|"
    "Conv2d|Linear|LayerNorm|GELU|Tanh|Dropout"
)


def architecture(module: Any) -> Architecture:
    """Say what the module computes; raise UserError if it is something that is not supported."""
    attentions = [block.self_attention for block in module.encoder.layers]
    heads, head_dim = the_one("heads", ((part.num_heads, part.head_dim) for part in attentions))
    return Architecture(
        image_size=module.image_size,
        patch_size=module.patch_size,
        heads=heads,
        head_dim=head_dim,
        norm_epsilon=norm_epsilon(module),
        activation=activation(module),
        pool=("class",),
        norm="pooled",
    )


def preprocessing(module: Any) -> Preprocessing:
    """Return that of the first published weights of these shapes, or else the usual one of torchvision."""
    from torchvision.models import get_model_weights
    from torchvision.transforms._presets import ImageClassification

    dim, depth = module.hidden_dim, len(module.encoder.layers)
    letter = {(768, 12): "b", (1024, 24): "l", (1280, 32): "h"}.get((dim, depth))
    name = f"vit_{letter}_{module.patch_size}"
    published = [entry.transforms() for entry in get_model_weights(name)] if name in MODELS else []
    usual = ImageClassification(crop_size=module.image_size, resize_size=round(module.image_size * 256 / 224))
    found = next((entry for entry in published if entry.crop_size == [module.image_size]), usual)
    resize = Resize(found.resize_size[0], False, found.interpolation.value)
    return Preprocessing(mean=tuple(found.mean), std=tuple(found.std), resize=resize)


def build(name: str, state: State) -> nn.Module:
    """Return torchvision's module `name` with the heads and the image size of `state`, on the meta device."""
    from torchvision.models import get_model

    _check_name(name)
    changes: dict[str, int] = {}
    if "heads.head.weight" in state:
        changes["num_classes"] = len(state["heads.head.weight"])
    if "heads.pre_logits.weight" in state:
        changes["representation_size"] = len(state["heads.pre_logits.weight"])
    if "encoder.pos_embedding" in state:
        side = math.isqrt(max(state["encoder.pos_embedding"].shape[1] - 1, 1))
        changes["image_size"] = side * int(name.rpartition("_")[2])
    with torch.device("meta"):
        return get_model(name, weights=None, **changes)  # type: ignore[no-any-return]


def download(name: str) -> nn.Module:
    """Return torchvision's module with its default weights."""
    from torchvision.models import get_model

    _check_name(name)
    return get_model(name, weights="DEFAULT")  # type: ignore[no-any-return]


def _check_name(name: str) -> None:
    if name not in MODELS:
        raise UserError(f"model.source is torchvision/{name}, but its name must be one of {', '.join(MODELS)}")


LIBRARY = Library(
    models=("VisionTransformer",),
    parts=PARTS,
    names=NAMES,
    unread="",
    architecture=architecture,
    preprocessing=preprocessing,
    files=lambda name: [],
    build=build,
    download=download,
)
