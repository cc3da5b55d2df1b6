"""Surgery on vision transformers: dims of heads and hidden dims of MLPs."""

from dataclasses import replace

import torch
from torch import Tensor

from vtp.models.family import Masks, State
from vtp.models.surgery import fold, keep_columns, keep_rows
from vtp.models.vit.spec import BlockSpec, HeadSpec, ViTSpec


def slim(spec: ViTSpec, state: State, masks: Masks) -> ViTSpec:
    """Remove from `state` what `masks` does not keep; return the spec of what is left."""
    blocks = []
    for index, block in enumerate(spec.blocks):
        attention, mlp = f"blocks.{index}.attention", f"blocks.{index}.mlp"
        if f"{attention}.input" in masks:
            readers = (f"{attention}.query", f"{attention}.key", f"{attention}.value")
            inputs = _slim_input(state, attention, readers, masks[f"{attention}.input"], block.attention_inputs)
            block = replace(block, attention_inputs=inputs)
        if f"{mlp}.input" in masks:
            inputs = _slim_input(state, mlp, (f"{mlp}.up",), masks[f"{mlp}.input"], block.mlp_inputs)
            block = replace(block, mlp_inputs=inputs)
        if f"{attention}.inner" in masks:
            block = replace(block, heads=_slim_attention(state, attention, block, masks[f"{attention}.inner"]))
        if f"{mlp}.hidden" in masks:
            block = replace(block, hidden=_slim_mlp(state, mlp, masks[f"{mlp}.hidden"]))
        blocks.append(block)
    return replace(spec, scored=(), blocks=tuple(blocks))


def _slim_input(state: State, name: str, readers: tuple[str, ...], keep: Tensor, inputs: int | None) -> int | None:
    """Slim the columns that the layers `readers` read; return how many are left, None where all are read.

    The norm before them still sees every dim of the residual stream.
    """
    score = state.pop(f"{name}.input.score")
    index = keep.nonzero().flatten().to(score.device)
    for reader in readers:
        fold(state, f"{reader}.weight", score, axis=1)
        keep_columns(state, f"{reader}.weight", index)
    if keep.all():
        return inputs
    before = state.get(f"{name}.columns.index")
    state[f"{name}.columns.index"] = (index if before is None else before[index]).to(torch.int32)
    return len(index)


def _slim_attention(state: State, name: str, block: BlockSpec, keep: Tensor) -> tuple[HeadSpec, ...]:
    """Slim q, k, v and output; return the heads that are left.

    One score scales a dim of q, of k and of v. Each head keeps its own dims, a head without any vanishes, and
    heads are put in order of size, so that those of equal size are neighbours and share one batched product.
    """
    score = state.pop(f"{name}.inner.score")
    dims_by_head = torch.arange(len(keep)).split([head.v for head in block.heads])
    kept = sorted((dims[keep[dims]] for dims in dims_by_head), key=len)
    kept = [dims for dims in kept if len(dims)]
    index = torch.cat(kept).to(score.device)
    for part in ("query", "key", "value"):
        fold(state, f"{name}.{part}.weight", score, axis=0)
        keep_rows(state, (f"{name}.{part}.weight",), index)
    if f"{name}.query.bias" in state:
        fold(state, f"{name}.query.bias", score, axis=0)
        keep_rows(state, (f"{name}.query.bias",), index)
    keep_columns(state, f"{name}.output.weight", index)
    return tuple(HeadSpec(len(dims), len(dims)) for dims in kept)


def _slim_mlp(state: State, name: str, keep: Tensor) -> int:
    """Slim both layers; the scores stand after the GELU, so they go into the second. Return the dims left."""
    score = state.pop(f"{name}.hidden.score")
    index = keep.nonzero().flatten().to(score.device)
    fold(state, f"{name}.down.weight", score, axis=1)
    keep_columns(state, f"{name}.down.weight", index)
    keep_rows(state, (f"{name}.up.weight", f"{name}.up.bias"), index)
    return len(index)
