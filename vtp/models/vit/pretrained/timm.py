"""Vision transformers of timm (`vit_*`, `deit_*`, `deit3_*`)."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
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
    files_of_folder,
    layers,
    norm_epsilon,
    the_one,
)
from vtp.models.vit.spec import Resize

BLOCK = r"blocks\.(?P<block>\d+)\."
NAMES = {
    "cls_token": "class_token",
    "dist_token": "distillation_token",
    "reg_token": "registers",
    "pos_embed": "positions",
    **layers("", "", {r"patch_embed\.proj": "embedding", "norm_pre": "pre_norm"}),
    **layers("", "", {"norm": "norm", "fc_norm": "pooled_norm"}),
    **layers("", "", {"head": "head", "head_dist": "distillation_head"}),
    **layers(
        BLOCK,
        r"blocks.\g<block>.",
        {
            "norm1": "attention_norm",
            r"attn\.qkv": "attention.qkv",
            r"attn\.proj": "attention.output",
            "norm2": "mlp_norm",
            r"mlp\.fc1": "mlp.up",
            r"mlp\.fc2": "mlp.down",
        },
    ),
    rf"{BLOCK}(?:ls1\.gamma|gamma_1)": r"blocks.\g<block>.attention.scale",
    rf"{BLOCK}(?:ls2\.gamma|gamma_2)": r"blocks.\g<block>.mlp.scale",
}
PARTS = (
    "VisionTransformer|VisionTransformerDistilled|PatchEmbed|Sequential|Block|Attention|Mlp|LayerScale|DropPath|"
    "PatchDropout|Conv2d|Linear|LayerNorm|LayerNormFp32|GELU|GELUTanh|QuickGELU|Dropout|Identity"
)


def architecture(module: Any) -> Architecture:
    """Say what the module computes; raise UserError if it is something that is not supported."""
    sizes = (module.patch_embed.img_size, module.patch_embed.patch_size)
    (height, width), (rows, columns) = sizes[0] or (0, 1), sizes[1]
    if height != width or rows != columns or height % rows:
        raise UserError(
            f"patch_embed has img_size {sizes[0]} and patch_size {sizes[1]}, but must have square ones that divide"
        )
    is_distilled = type(module).__name__ == "VisionTransformerDistilled"
    pool = {"token": ("class", "distillation") if is_distilled else ("class",), "avg": ("patches",)}
    if module.global_pool not in pool or module.pool_include_prefix:
        prefix = " with prefix tokens" if module.pool_include_prefix else ""
        raise UserError(f"global_pool is {module.global_pool!r}{prefix}, but must be 'token', or 'avg' of patches")
    has_norm = not isinstance(module.norm, nn.Identity)
    if is_distilled and (not has_norm or module.reg_token is not None):
        raise UserError("a distilled model must have its final norm before the heads, and no reg_token")
    has_pooled_norm = not isinstance(module.fc_norm, nn.Identity)
    heads, head_dim = the_one("heads", ((block.attn.num_heads, block.attn.head_dim) for block in module.blocks))
    return Architecture(
        image_size=height,
        patch_size=rows,
        heads=heads,
        head_dim=head_dim,
        norm_epsilon=norm_epsilon(module),
        activation=activation(module),
        pool=pool[module.global_pool],  # type: ignore[arg-type]
        norm="pooled" if has_pooled_norm else "tokens" if has_norm else "none",
    )


def preprocessing(module: Any) -> Preprocessing | None:
    """Return what `pretrained_cfg` says, as `timm.data.create_transform` reads it; modules may have none."""
    if not getattr(module, "pretrained_cfg", None):
        return None
    from timm.data.config import resolve_model_data_config

    config: Any = resolve_model_data_config(module)  # type: ignore[no-untyped-call]
    resize = None
    if config["crop_mode"] in ("center", "squash"):
        size = math.floor(module.patch_embed.img_size[0] / config["crop_pct"])
        resize = Resize(size, config["crop_mode"] == "squash", config["interpolation"])
    mean, std = config["mean"], config["std"]
    channels = module.patch_embed.proj.in_channels
    if len(set(mean)) == len(set(std)) == 1:
        mean, std = mean[:1] * channels, std[:1] * channels
    return Preprocessing(mean=tuple(mean), std=tuple(std), resize=resize)


def build(name: str, state: State) -> nn.Module:
    """Return timm's module `name`, or that of a folder, with the classes and image size of `state`, on meta."""
    if Path(name).is_dir():
        _check_folder(Path(name))
        name = f"local-dir:{name}"
    else:
        _check_name(name)
    changes: dict[str, Any] = {}
    if "head.weight" in state:
        changes["num_classes"] = len(state["head.weight"])
    if "fc_norm.weight" in state and "norm.weight" not in state:
        changes["global_pool"] = "avg"
    with torch.device("meta"):
        module: Any = _created(name, changes)
        if "pos_embed" in state and getattr(module, "pos_embed", None) is not None:
            patches = module.patch_embed.num_patches + state["pos_embed"].shape[1] - module.pos_embed.shape[1]
            side = math.isqrt(max(patches, 0))
            if side**2 == patches and patches != module.patch_embed.num_patches:
                size = side * module.patch_embed.patch_size[0]
                module = _created(name, changes | {"img_size": size})
    return module  # type: ignore[no-any-return]


def _created(name: str, changes: Mapping[str, Any]) -> nn.Module:
    """Return timm's module; raise UserError, in timm's words, if there is none of that name and tag."""
    import timm

    try:
        return timm.create_model(name, **changes)
    except (RuntimeError, AssertionError) as error:
        source = f"timm/{name.removeprefix('local-dir:')}"
        raise UserError(f"model.source is {source}, but timm says: {str(error).splitlines()[0]}") from error


def download(name: str) -> nn.Module:
    """Return timm's module with its pretrained weights."""
    import timm

    _check_name(name)
    if not timm.is_model_pretrained(name):
        raise UserError(
            f"model.source is timm/{name}, for which timm has no weights; name a file in model.weights"
        )
    return timm.create_model(name, pretrained=True)


def _check_name(name: str) -> None:
    import timm

    if not timm.is_model(name):
        raise UserError(
            f"model.source is timm/{name}, but timm has no model of that name (timm.list_models), "
            "and there is no such folder"
        )


def _check_folder(folder: Path) -> None:
    """Raise UserError unless the folder says which model of timm it holds, as `timm.models.save_for_hf` does."""
    import timm

    file = folder / "config.json"
    try:
        name = json.loads(file.read_text(encoding="utf-8"))["architecture"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{file}: missing, or does not name an architecture of timm; timm.models.save_for_hf writes it"
        ) from error
    if not timm.is_model(name):
        raise UserError(f"{file}: architecture is {name!r}, but timm has no model of that name")


LIBRARY = Library(
    models=("VisionTransformer", "VisionTransformerDistilled"),
    parts=PARTS,
    names=NAMES,
    unread="",
    architecture=architecture,
    preprocessing=preprocessing,
    files=files_of_folder,
    build=build,
    download=download,
)
