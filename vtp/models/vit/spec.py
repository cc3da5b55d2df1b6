"""The spec of a vision transformer."""

from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from vtp.checked import STRICT
from vtp.models.spec import Count, ModelSpec
from vtp.models.vit.params import ViTParams


@dataclass(frozen=True, config=STRICT)
class HeadSpec:
    """Dims of one head: of its queries and keys, and of its values."""

    qk: Count
    v: Count


@dataclass(frozen=True, config=STRICT)
class BlockSpec:
    """One block: its heads, the hidden dims of its MLP, and how many dims q, k and v, and the MLP, read.

    None: they read all dims of the residual stream.
    """

    heads: tuple[HeadSpec, ...]
    hidden: Count
    attention_inputs: Count | None = None
    mlp_inputs: Count | None = None


@dataclass(frozen=True, config=STRICT)
class Resize:
    """How images of any size become those that the model was trained on: resized, then cropped in the centre.

    Attributes:
        size: pixels, of the shorter side.
        squash: whether both sides become `size`, whatever the image's shape.
        interpolation: between pixels.
    """

    size: Count
    squash: bool
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ViTSpec(ModelSpec):
    """A vision transformer. The defaults are those of the models that this project trains from scratch.

    Attributes:
        patch_size: height and width of a patch, pixels; divides image_size.
        dim: width of the residual stream.
        head_dim: q/k dims of a head as trained: the softmax scale stays head_dim^-0.5 when some are pruned.
        blocks: one BlockSpec a block.
        dropout: probability, after the embedding, the attention and each layer of the MLP.
        stochastic_depth: probability that each branch of the last block is dropped for an image in training; it
            rises linearly from zero at the first block.
        patch_dropout: part of each image's patches, drawn anew each time, that all but the last epochs leave out.
        weight_std: standard deviation of the layers' weights before training; 0: Xavier's.
        position_std: standard deviation of the positions before training.
        mimetic: whether attention and positions begin as those of trained models look.
        query_bias: whether queries have a bias. A key's would change no softmax, a value's is one of the output.
        norm_epsilon: what every norm adds to the variance.
        activation: of the MLP; quick_gelu is x · sigmoid(1.702 x).
        prefix_tokens: tokens before the patches: the class token, then others (distillation token, registers).
        pre_norm: whether a norm stands before the first block.
        pool: what the head reads, side by side: the first or the second token, the mean of the patches.
        norm: whether the last norm follows the pooling, or comes before it, over every token.
        representation: dims of a layer with tanh before the head; None: there is no such layer.
        resize: how images become those that the model was trained on; None: nothing is known of it.
    """

    patch_size: Count
    dim: Count
    head_dim: Count
    blocks: tuple[BlockSpec, ...]
    dropout: Annotated[float, Field(ge=0, le=1)]
    stochastic_depth: Annotated[float, Field(ge=0, le=1)] = 0.0
    patch_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    weight_std: Annotated[float, Field(ge=0)] = 0.0
    position_std: Annotated[float, Field(ge=0)] = 0.02
    mimetic: bool = False
    query_bias: bool = False
    norm_epsilon: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    activation: Literal["gelu", "gelu_tanh", "quick_gelu"] = "gelu"
    prefix_tokens: Annotated[int, Field(ge=0)] = 1
    pre_norm: bool = False
    pool: tuple[Literal["class", "distillation", "patches"], ...] = ("class",)
    norm: Literal["pooled", "tokens", "none"] = "pooled"
    representation: Count | None = None
    resize: Resize | None = None

    @property
    def largest_activation(self) -> int:
        """Entries of the attention maps of a block, of the dims of all tokens, or of the image."""
        tokens = self.prefix_tokens + (self.image_size // self.patch_size) ** 2
        widths = (max(tokens * len(block.heads), block.hidden) for block in self.blocks)
        return max(tokens * max(self.dim, *widths), self.channels * self.image_size**2)


def dense_spec(params: ViTParams, **common: Any) -> ViTSpec:
    """Return the spec of the untrained model of `params`; `common` are the fields that all specs have."""
    head = HeadSpec(params.head_dim, params.head_dim)
    return ViTSpec(
        **common,
        patch_size=params.patch_size,
        dim=params.dim,
        head_dim=params.head_dim,
        blocks=(BlockSpec((head,) * params.heads, params.mlp_dim),) * params.depth,
        dropout=params.dropout,
        stochastic_depth=params.stochastic_depth,
        patch_dropout=params.patch_dropout,
        weight_std=params.weight_std,
        position_std=params.position_std,
        mimetic=params.mimetic,
    )
