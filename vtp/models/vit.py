"""The vision transformer (arXiv:2010.11929) in the form of the paper's code, built from a spec.

Class token, learned positions, pre-norm, GELU; q, k and v without a bias. Each head of each block has its own
q/k and v dims, so that a pruned model is an ordinary one. Shape suffixes: B images, N tokens, D model dims.
"""

from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor, nn

from vtp.models.base import Model
from vtp.models.layers import Columns, ImportanceScore
from vtp.models.spec import ModelSpec


@dataclass(frozen=True)
class HeadSpec:
    """Dims of one head: of its queries and keys, and of its values."""

    qk: int
    v: int


@dataclass(frozen=True)
class BlockSpec:
    """One block: its heads, the hidden dims of its MLP, and how many dims q, k and v, and the MLP, read.

    None: they read all dims of the residual stream.
    """

    heads: tuple[HeadSpec, ...]
    hidden: int
    attention_inputs: int | None = None
    mlp_inputs: int | None = None


@dataclass(frozen=True)
class ViTSpec(ModelSpec):
    """A vision transformer.

    Attributes:
        patch_size: height and width of a patch, pixels; divides image_size.
        dim: width of the residual stream.
        head_dim: q/k dims of a head as trained: the softmax scale stays head_dim^-0.5 when some are pruned.
        blocks: one BlockSpec a block.
        dropout: probability, after the embedding, the attention and each layer of the MLP.
    """

    patch_size: int
    dim: int
    head_dim: int
    blocks: tuple[BlockSpec, ...]
    dropout: float


def input_site(dim: int, inputs: int | None, is_scored: bool) -> tuple[nn.Module, nn.Module]:
    """Return what picks the dims that a part of the block reads, and their scores; an identity for what is not."""
    columns = nn.Identity() if inputs is None else Columns(inputs)
    return columns, ImportanceScore(inputs or dim) if is_scored else nn.Identity()


class Attention(nn.Module):
    """Multi-head self-attention whose heads may differ in their dims.

    The inner dims of query, key, value and output are the heads' dims side by side, in the order of `heads`.
    """

    def __init__(
        self,
        *,
        dim: int,
        inputs: int | None,
        heads: tuple[HeadSpec, ...],
        scale: float,
        dropout: float,
        scored: tuple[str, ...],
    ) -> None:
        super().__init__()
        self.scale = scale
        self.groups = [(head, len(list(same))) for head, same in groupby(heads)]
        inner_qk, inner_v = sum(head.qk for head in heads), sum(head.v for head in heads)
        self.columns, self.input = input_site(dim, inputs, "attention.input" in scored)
        self.query = nn.Linear(inputs or dim, inner_qk, bias=False)
        self.key = nn.Linear(inputs or dim, inner_qk, bias=False)
        self.value = nn.Linear(inputs or dim, inner_v, bias=False)
        self.inner = ImportanceScore(inner_v) if "attention.inner" in scored else nn.Identity()
        self.output = nn.Linear(inner_v, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BND: Tensor, queries: int | None) -> Tensor:
        """Attend from the first `queries` tokens (None: from all) to all tokens."""
        x = self.input(self.columns(x_BND))
        q = self.inner(self.query(x if queries is None else x[:, :queries]))
        k = self.inner(self.key(x))
        v = self.inner(self.value(x))
        return self.dropout(self.output(self.attend(q, k, v)))  # type: ignore[no-any-return]

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Softmax(q kᵀ · scale) v of every head; equal neighbouring heads share one batched product."""
        splits_qk = [head.qk * count for head, count in self.groups]
        splits_v = [head.v * count for head, count in self.groups]
        attended = []
        for (head, count), q_g, k_g, v_g in zip(
            self.groups, q.split(splits_qk, -1), k.split(splits_qk, -1), v.split(splits_v, -1), strict=True
        ):
            q_BHMK = q_g.unflatten(-1, (count, head.qk)).transpose(1, 2)
            k_BHKN = k_g.unflatten(-1, (count, head.qk)).permute(0, 2, 3, 1)
            v_BHNV = v_g.unflatten(-1, (count, head.v)).transpose(1, 2)
            # Plain products: on CPU the backward pass of the fused attention is slower at these lengths.
            weights = (q_BHMK * self.scale @ k_BHKN).softmax(-1)
            attended.append((weights @ v_BHNV).transpose(1, 2).flatten(2))
        return torch.cat(attended, -1) if len(attended) > 1 else attended[0]


class MLP(nn.Module):
    """Two linear layers around a GELU; the hidden dims may carry importance scores."""

    def __init__(
        self, *, dim: int, inputs: int | None, hidden: int, dropout: float, scored: tuple[str, ...]
    ) -> None:
        super().__init__()
        self.columns, self.input = input_site(dim, inputs, "mlp.input" in scored)
        self.up = nn.Linear(inputs or dim, hidden)
        self.activation = nn.GELU()
        self.hidden = ImportanceScore(hidden) if "mlp.hidden" in scored else nn.Identity()
        self.down = nn.Linear(hidden, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BND: Tensor) -> Tensor:
        """Map (B, N, D) to (B, N, D)."""
        x = self.input(self.columns(x_BND))
        hidden = self.dropout(self.hidden(self.activation(self.up(x))))
        return self.dropout(self.down(hidden))  # type: ignore[no-any-return]


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, spec: ViTSpec, block: BlockSpec) -> None:
        super().__init__()
        shared = {"dim": spec.dim, "dropout": spec.dropout, "scored": spec.scored}
        self.attention_norm = nn.LayerNorm(spec.dim)
        self.attention = Attention(
            heads=block.heads,
            inputs=block.attention_inputs,
            scale=spec.head_dim**-0.5,
            **shared,  # type: ignore[arg-type]
        )
        self.mlp_norm = nn.LayerNorm(spec.dim)
        self.mlp = MLP(hidden=block.hidden, inputs=block.mlp_inputs, **shared)  # type: ignore[arg-type]

    def forward(self, x_BND: Tensor, queries: int | None = None) -> Tensor:
        """Return the first `queries` tokens (None: all) of the block's output."""
        x = x_BND[:, :queries] + self.attention(self.attention_norm(x_BND), queries)
        return x + self.mlp(self.mlp_norm(x))  # type: ignore[no-any-return]


class VisionTransformer(Model):
    """Patches and a class token, blocks, norm, linear head."""

    writers = ("attention.output", "mlp.down")
    spec: ViTSpec

    def __init__(self, spec: ViTSpec) -> None:
        super().__init__(spec)
        tokens = (spec.image_size // spec.patch_size) ** 2 + 1
        self.embedding = nn.Linear(spec.channels * spec.patch_size**2, spec.dim)
        self.class_token = nn.Parameter(torch.zeros(spec.dim))
        self.positions = nn.Parameter(torch.zeros(tokens, spec.dim))
        self.dropout = nn.Dropout(spec.dropout)
        self.blocks = nn.ModuleList(Block(spec, block) for block in spec.blocks)
        self.norm = nn.LayerNorm(spec.dim)
        self.head = nn.Linear(spec.dim, spec.classes)

    def embed(self, images_BCHW: Tensor) -> Tensor:
        """Patches, projected, after a class token, plus positions: (B, N, D)."""
        size = self.spec.patch_size
        pixels = self.normalised(images_BCHW)
        patches = pixels.unflatten(3, (-1, size)).unflatten(2, (-1, size))  # B C rows p columns p
        patches_BND = self.embedding(patches.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2))
        class_token = self.class_token.to(patches_BND.dtype).expand(len(images_BCHW), 1, -1)
        return self.dropout(torch.cat([class_token, patches_BND], 1) + self.positions)  # type: ignore[no-any-return]

    def run_block(self, index: int, x_BND: Tensor) -> Tensor:
        """What the block makes of its tokens; of the last block's, only the class token is computed (B, 1, D).

        Nothing else is read after it: the logits are the same.
        """
        is_last = index == len(self.blocks) - 1
        return self.blocks[index](x_BND, queries=1 if is_last else None)  # type: ignore[no-any-return]

    def classify(self, x_BND: Tensor) -> Tensor:
        """Logits of the class token."""
        return self.head(self.norm(x_BND[:, 0]))  # type: ignore[no-any-return]

    def head_dims(self) -> dict[str, list[int]]:
        """Return site -> the dims of each head, for the inner dims of every block's attention."""
        blocks = enumerate(self.spec.blocks)
        return {f"blocks.{index}.attention.inner": [head.v for head in block.heads] for index, block in blocks}

    @torch.no_grad()
    def initialise(self) -> None:
        """Xavier-uniform weights and zero biases, but a zero head, positions and class token normal of 0.02.

        Xavier keeps the residual stream's variance at any width and depth used here; the zero head starts
        training at the uniform distribution, as in the original ViT.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm | ImportanceScore):
                module.reset_parameters()
        nn.init.zeros_(self.head.weight)
        nn.init.normal_(self.class_token, std=0.02)
        nn.init.normal_(self.positions, std=0.02)
