"""Surgery on vision transformers: dims of heads and hidden dims of MLPs."""

from dataclasses import replace

import torch
from torch import Tensor

from vtp.models.family import Inner, Masks, State
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
            keep = masks[f"{attention}.inner"]
            block = replace(block, heads=_slim_attention(state, attention, block, keep, keep))
        if f"{attention}.query_key" in masks:
            keep_qk, keep_v = masks[f"{attention}.query_key"], masks[f"{attention}.value"]
            block = replace(block, heads=_slim_attention(state, attention, block, keep_qk, keep_v))
        if f"{mlp}.hidden" in masks:
            block = replace(block, hidden=_slim_mlp(state, mlp, masks[f"{mlp}.hidden"]))
        blocks.append(block)
    return replace(spec, scored=(), blocks=tuple(blocks))


def inner(spec: ViTSpec) -> list[Inner]:
    """Return the dims between queries and keys, between values and output, and of the MLP, of each block."""
    found = []
    for index, block in enumerate(spec.blocks):
        attention, mlp = f"blocks.{index}.attention", f"blocks.{index}.mlp"
        dims_qk, dims_v = (tuple(getattr(head, part) for head in block.heads) for part in ("qk", "v"))
        found += [
            Inner(f"{attention}.query_key", f"{attention}.query", f"{attention}.key", dims_qk, "rows"),
            Inner(f"{attention}.value", f"{attention}.value", f"{attention}.output", dims_v, "columns"),
            Inner(f"{mlp}.hidden", f"{mlp}.up", f"{mlp}.down", (block.hidden,), "activations"),
        ]
    return found


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


def _slim_attention(
    state: State, name: str, block: BlockSpec, keep_qk: Tensor, keep_v: Tensor
) -> tuple[HeadSpec, ...]:
    """Slim q and k, v and output; return the heads that are left.

    One score, if there is any, scales a dim of q, of k and of v. Each head keeps its own dims, one without values
    vanishes, and heads are put in order of size, so that those of equal size are neighbours and share one batched
    product.
    """
    score = state.pop(f"{name}.inner.score", None)
    dims_qk = torch.arange(len(keep_qk)).split([head.qk for head in block.heads])
    dims_v = torch.arange(len(keep_v)).split([head.v for head in block.heads])
    kept = [(qk[keep_qk[qk]], v[keep_v[v]]) for qk, v in zip(dims_qk, dims_v, strict=True)]
    kept = sorted(((qk, v) for qk, v in kept if len(v)), key=lambda head: (len(head[1]), len(head[0])))
    device = state[f"{name}.query.weight"].device
    index_qk, index_v = (torch.cat(parts).to(device) for parts in zip(*kept, strict=True))
    for part, index in (("query", index_qk), ("key", index_qk), ("value", index_v)):
        fold(state, f"{name}.{part}.weight", score, axis=0)
        keep_rows(state, (f"{name}.{part}.weight",), index)
    if f"{name}.query.bias" in state:
        fold(state, f"{name}.query.bias", score, axis=0)
        keep_rows(state, (f"{name}.query.bias",), index_qk)
    keep_columns(state, f"{name}.output.weight", index_v)
    return tuple(HeadSpec(len(qk), len(v)) for qk, v in kept)


def _slim_mlp(state: State, name: str, keep: Tensor) -> int:
    """Slim both layers; the scores stand after the GELU, so they go into the second. Return the dims left."""
    score = state.pop(f"{name}.hidden.score", None)
    index = keep.nonzero().flatten().to(state[f"{name}.up.weight"].device)
    fold(state, f"{name}.down.weight", score, axis=1)
    keep_columns(state, f"{name}.down.weight", index)
    keep_rows(state, (f"{name}.up.weight", f"{name}.up.bias"), index)
    return len(index)
