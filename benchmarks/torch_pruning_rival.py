"""Torch-Pruning, the package itself, as a rival: torch-pruning 1.6.1, which `pip install torch-pruning` brings.

It prunes a vision transformer of timm that has the weights of the dense model, as in its own examples, and what it
leaves is read back. The dense model must be of the form that this project trains: a class token, no query bias.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from importlib import import_module
from types import MethodType
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.pruning_rivals import Make, shaped, total_hidden
from benchmarks.trained_models import Given
from vtp.calibration.watching import BATCH
from vtp.models import Model, from_state
from vtp.models.vit.spec import BlockSpec, HeadSpec, ViTSpec

LAYERS = {
    "norm1": "attention_norm",
    "attn.proj": "attention.output",
    "norm2": "mlp_norm",
    "mlp.fc1": "mlp.up",
    "mlp.fc2": "mlp.down",
}


def torch_pruning(given: Given, inner: bool) -> Make:
    """Torch-Pruning (DepGraph, arXiv:2301.12900) by the Taylor criterion, which its authors advise for ViTs.

    Labels are used. Equal parts of all layers go, either of the dims inside attention and MLP alone ("bottleneck"
    in its examples) or of the residual stream too ("uniform").
    """
    spec = cast(ViTSpec, given.dense.spec)

    def make(keep: float) -> Model | None:
        dim = spec.dim if inner else round(spec.dim * keep**0.5)
        head_dim = max(1, round(spec.head_dim * (keep if inner else keep**0.5)))
        hidden = total_hidden(shaped(spec, dim, head_dim, head_dim), given.budget(keep)) // len(spec.blocks)
        if hidden < 1:
            return None
        return by_torch_pruning(given, dim, head_dim, hidden, inner)

    return make


def by_torch_pruning(given: Given, dim: int, head_dim: int, hidden: int, inner: bool) -> Model:
    """Return the model that Torch-Pruning leaves of the dense one at these sizes."""
    import_module("vtp.data.sources.torchvision_shim")
    tp: Any = import_module("torch_pruning")
    spec = cast(ViTSpec, given.dense.spec)
    model = as_timm(spec, given.dense.state_dict())
    ratios = {block.mlp.fc1: gone(hidden, spec.blocks[0].hidden) for block in model.blocks}
    ratios |= {block.attn.qkv: gone(head_dim, spec.head_dim) for block in model.blocks}
    pixels = given.dense.normalised(given.images)
    pruner = tp.pruner.BasePruner(
        model,
        pixels[:1],
        importance=tp.importance.GroupTaylorImportance(),
        pruning_ratio=gone(dim, spec.dim),
        pruning_ratio_dict=ratios,
        ignored_layers=[model.head, *(block.mlp.fc2 for block in model.blocks if inner)],
        num_heads={block.attn.qkv: block.attn.num_heads for block in model.blocks},
    )
    for batch, labels in zip(pixels.split(BATCH), given.labels.split(BATCH), strict=True):
        (F.cross_entropy(model(batch), labels, reduction="sum") / len(pixels)).backward()
    pruner.step()
    heads = (HeadSpec(head_dim, head_dim),) * len(spec.blocks[0].heads)
    blocks = (BlockSpec(heads, hidden),) * len(spec.blocks)
    return from_timm(replace(spec, dim=dim, blocks=blocks), model, given.dense)


def gone(kept: int, whole: int) -> float:
    """Return the ratio that leaves so many of a layer's dims, whichever way it is rounded."""
    return 1 - (kept + 0.5) / whole if kept < whole else 0.0


def as_timm(spec: ViTSpec, state: Mapping[str, Tensor]) -> Any:
    """Return a vision transformer of timm that gives the same logits on normalised pixels."""
    timm: Any = import_module("timm.models.vision_transformer")
    model = timm.VisionTransformer(
        img_size=spec.image_size,
        patch_size=spec.patch_size,
        in_chans=spec.channels,
        num_classes=spec.classes,
        embed_dim=spec.dim,
        depth=len(spec.blocks),
        num_heads=len(spec.blocks[0].heads),
        mlp_ratio=spec.blocks[0].hidden / spec.dim,
        qkv_bias=False,
        norm_layer=partial(nn.LayerNorm, eps=spec.norm_epsilon),
    )
    size, weight = spec.patch_size, state["embedding.weight"]
    theirs = {
        "cls_token": state["class_token"].view(1, 1, -1),
        "pos_embed": state["positions"][None],
        "patch_embed.proj.weight": weight.view(spec.dim, size, size, spec.channels).permute(0, 3, 1, 2),
        "patch_embed.proj.bias": state["embedding.bias"],
    }
    for name, layer in names(len(spec.blocks)).items():
        theirs |= {f"{name}.{kind}": state[f"{layer}.{kind}"] for kind in ("weight", "bias")}
    for index, block in enumerate(model.blocks):
        parts = [state[f"blocks.{index}.attention.{part}.weight"] for part in ("query", "key", "value")]
        theirs[f"blocks.{index}.attn.qkv.weight"] = torch.cat(parts)
        block.attn.forward = MethodType(attend, block.attn)
    model.load_state_dict(theirs)
    return model.eval()


def attend(attention: Any, x: Tensor, **_: Any) -> Tensor:
    """Attention of timm that goes by its layers' shapes, which are pruned; the scale is the trained one."""
    shape = (*x.shape[:2], 3, attention.num_heads, attention.head_dim)
    q, k, v = attention.qkv(x).reshape(shape).permute(2, 0, 3, 1, 4).unbind(0)
    mixed = (q * attention.scale @ k.transpose(-2, -1)).softmax(-1) @ v
    found: Tensor = attention.proj(mixed.transpose(1, 2).reshape(*x.shape[:2], -1))
    return found


def from_timm(spec: ViTSpec, model: Any, dense: Model) -> Model:
    """Return the model of the spec with the weights of the timm model, and the pixels' mean of the dense one."""
    theirs = model.state_dict()
    state = {
        "mean": dense.mean,
        "std": dense.std,
        "class_token": theirs["cls_token"].flatten(),
        "positions": theirs["pos_embed"][0],
        "embedding.weight": theirs["patch_embed.proj.weight"].permute(0, 2, 3, 1).flatten(1),
        "embedding.bias": theirs["patch_embed.proj.bias"],
    }
    for name, layer in names(len(spec.blocks)).items():
        state |= {f"{layer}.{kind}": theirs[f"{name}.{kind}"] for kind in ("weight", "bias")}
    for index in range(len(spec.blocks)):
        parts = theirs[f"blocks.{index}.attn.qkv.weight"].chunk(3)
        for part, weight in zip(("query", "key", "value"), parts, strict=True):
            state[f"blocks.{index}.attention.{part}.weight"] = weight
    return from_state(spec, state)


def names(depth: int) -> dict[str, str]:
    """Return timm's name of each layer that is one here too -> its name here."""
    of_blocks = {
        f"blocks.{index}.{name}": f"blocks.{index}.{layer}"
        for index in range(depth)
        for name, layer in LAYERS.items()
    }
    return of_blocks | {"norm": "norm", "head": "head"}
