"""Foreign tensors as those of our vision transformer: shapes, and what folds into other weights.

What a softmax or a product makes equal is folded: the bias of a key changes no softmax; that of a value, whose
weights sum to one, is a part of the output's; LayerScale (arXiv:2103.17239) is a part of the layer before it.
"""

import torch

from vtp.errors import UserError
from vtp.models.family import State
from vtp.models.vit.pretrained.reading import Architecture, Pool, Preprocessing
from vtp.models.vit.spec import BlockSpec, HeadSpec, ViTSpec


def replace_head(state: State, pool: Pool, classes: int) -> None:
    """Put an untrained head, of zeros, in the place of whatever stands behind the pooling."""
    for layer in ("head", "distillation_head", "representation"):
        for kind in ("weight", "bias"):
            state.pop(f"{layer}.{kind}", None)
    embedding = state["embedding.weight"]
    state["head.weight"] = embedding.new_zeros(classes, len(embedding) * len(pool))
    state["head.bias"] = embedding.new_zeros(classes)


def folded(found: State, architecture: Architecture, preprocessing: Preprocessing) -> tuple[ViTSpec, State]:
    """Return the spec and the state of the model that computes what the foreign tensors did.

    Args:
        found: tensors by the names of this project, but for convolution weight `embedding.weight`, tokens and
            positions with axes of 1, and further: `attention.qkv` or biases of `attention.key` and `.value`,
            `attention.scale` and `mlp.scale` (LayerScale), `distillation_token`, `distillation_head`.
        architecture: what the tensors do not tell.
        preprocessing: the normalisation of the pixels, and the resizing.
    """
    state = dict(found)
    channels = state["embedding.weight"].shape[1]
    if not len(preprocessing.mean) == len(preprocessing.std) == channels:
        raise UserError(f"the pixels' mean is {preprocessing.mean}, but the model has {channels} channels")
    depth = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
    for index in range(depth):
        _fold_block(state, f"blocks.{index}")
    if has_query_bias := any(name.endswith("query.bias") for name in state):
        for index in range(depth):
            _add_zero_bias(state, f"blocks.{index}.attention.query")
    state["embedding.weight"] = state["embedding.weight"].permute(0, 2, 3, 1).flatten(1)
    prefix = _fold_tokens(state, (architecture.image_size // architecture.patch_size) ** 2)
    _fold_head(state, architecture)
    for name in list(state):
        layer, _, kind = name.rpartition(".")
        if kind == "weight" and not layer.endswith((".query", ".key", ".value")):
            _add_zero_bias(state, layer)
    like = state["head.weight"]
    state["mean"] = torch.tensor([255 * value for value in preprocessing.mean], dtype=like.dtype)
    state["std"] = torch.tensor([255 * value for value in preprocessing.std], dtype=like.dtype)
    head = HeadSpec(architecture.head_dim, architecture.head_dim)
    hidden = [state[f"blocks.{index}.mlp.up.weight"].shape[0] for index in range(depth)]
    spec = ViTSpec(
        name="vit",
        image_size=architecture.image_size,
        channels=channels,
        classes=len(like),
        patch_size=architecture.patch_size,
        dim=state["embedding.weight"].shape[0],
        head_dim=architecture.head_dim,
        blocks=tuple(BlockSpec((head,) * architecture.heads, dims) for dims in hidden),
        dropout=0.0,
        query_bias=has_query_bias,
        norm_epsilon=architecture.norm_epsilon,
        activation=architecture.activation,
        prefix_tokens=prefix,
        pre_norm="pre_norm.weight" in state,
        pool=architecture.pool,
        norm=architecture.norm,
        representation=len(state["representation.weight"]) if "representation.weight" in state else None,
        resize=preprocessing.resize,
    )
    return spec, state


def _fold_block(state: State, block: str) -> None:
    attention = f"{block}.attention"
    for kind in ("weight", "bias"):
        fused = state.pop(f"{attention}.qkv.{kind}", None)
        if fused is not None:
            for part, tensor in zip(("query", "key", "value"), fused.chunk(3), strict=True):
                state[f"{attention}.{part}.{kind}"] = tensor
    state.pop(f"{attention}.key.bias", None)
    value_bias = state.pop(f"{attention}.value.bias", None)
    if value_bias is not None:
        _add_zero_bias(state, f"{attention}.output")
        shift = state[f"{attention}.output.weight"].double() @ value_bias.double()
        bias = state[f"{attention}.output.bias"]
        state[f"{attention}.output.bias"] = (bias.double() + shift).to(bias.dtype)
    for part, layer in ((attention, f"{attention}.output"), (f"{block}.mlp", f"{block}.mlp.down")):
        gamma = state.pop(f"{part}.scale", None)
        if gamma is not None:
            _add_zero_bias(state, layer)
            state[f"{layer}.weight"] = gamma[:, None] * state[f"{layer}.weight"]
            state[f"{layer}.bias"] = gamma * state[f"{layer}.bias"]


def _fold_tokens(state: State, patches: int) -> int:
    """Give every prefix token a row of positions, of zeros where it has none; return how many tokens there are."""
    dim = state["embedding.weight"].shape[0]
    kinds = ("class_token", "distillation_token", "registers")
    tokens = [state.pop(kind).reshape(-1, dim) for kind in kinds if kind in state]
    rows = torch.cat(tokens) if tokens else state["embedding.weight"].new_zeros(0, dim)
    positions = state.pop("positions", rows.new_zeros(patches, dim)).reshape(-1, dim)
    with_position = len(positions) - patches
    if not 0 <= with_position <= len(rows):
        raise UserError(
            f"there are {len(positions)} positions, but {patches} patches and {len(rows)} other tokens want them"
        )
    state["positions"] = torch.cat(
        [positions[:with_position], rows.new_zeros(len(rows) - with_position, dim), positions[with_position:]]
    )
    if len(rows):
        state["class_token"] = rows[0]
    if len(rows) > 1:
        state["registers"] = rows[1:]
    return len(rows)


def _fold_head(state: State, architecture: Architecture) -> None:
    """Make the mean of two heads one head that reads two tokens; drop a norm that nothing reads."""
    if "distillation_head.weight" in state:
        _add_zero_bias(state, "head")
        _add_zero_bias(state, "distillation_head")
        state["head.weight"] = torch.cat([state["head.weight"], state.pop("distillation_head.weight")], 1) / 2
        state["head.bias"] = (state["head.bias"] + state.pop("distillation_head.bias")) / 2
    if architecture.norm == "none":
        state.pop("norm.weight", None)
        state.pop("norm.bias", None)


def _add_zero_bias(state: State, layer: str) -> None:
    weight = state[f"{layer}.weight"]
    state.setdefault(f"{layer}.bias", weight.new_zeros(len(weight)))
