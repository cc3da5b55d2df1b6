"""Surgery on ResNets: channels inside a block."""

from dataclasses import replace

from torch import Tensor

from vtp.models.family import Inner, Masks, State
from vtp.models.resnet.spec import ResNetSpec
from vtp.models.surgery import fold, keep_columns, keep_rows


def slim(spec: ResNetSpec, state: State, masks: Masks) -> ResNetSpec:
    """Remove from `state` what `masks` does not keep; return the spec of what is left."""
    blocks = list(spec.blocks)
    for index, block in enumerate(spec.blocks):
        name = f"blocks.{index}"
        if f"{name}.inner" in masks:
            blocks[index] = replace(block, inner=_slim_block(state, name, masks[f"{name}.inner"]))
    return replace(spec, scored=(), blocks=tuple(blocks))


def inner(spec: ResNetSpec) -> list[Inner]:
    """Return the channels inside each block."""
    return [
        Inner(
            f"blocks.{index}.inner",
            f"blocks.{index}.conv1",
            f"blocks.{index}.conv2",
            (block.inner,),
            "activations",
        )
        for index, block in enumerate(spec.blocks)
    ]


def _slim_block(state: State, name: str, keep: Tensor) -> int:
    """Slim both convolutions and the norm between them; return the channels left.

    The scores stand after norm and ReLU, so they go into the second convolution.
    """
    score = state.pop(f"{name}.inner.score", None)
    index = keep.nonzero().flatten().to(state[f"{name}.conv2.weight"].device)
    fold(state, f"{name}.conv2.weight", score, axis=1)
    keep_columns(state, f"{name}.conv2.weight", index)
    norm = tuple(f"{name}.norm1.{part}" for part in ("weight", "bias", "running_mean", "running_var"))
    keep_rows(state, (f"{name}.conv1.weight", *norm), index)
    return len(index)
