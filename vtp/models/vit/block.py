"""The block of a vision transformer: attention and MLP, each with its norm, its sites and its residual branch.

Each head of each block has its own q/k and v dims, so that a pruned model is an ordinary one.
Shape suffixes: B images, N tokens, D model dims.
"""

from collections.abc import Callable
from functools import partial
from itertools import groupby

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vtp.models.layers import Columns, ImportanceScore
from vtp.models.vit.spec import BlockSpec, HeadSpec, ViTSpec


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
        query_bias: bool,
    ) -> None:
        super().__init__()
        self.scale = scale
        self.groups = [(head, len(list(same))) for head, same in groupby(heads)]
        inner_qk, inner_v = sum(head.qk for head in heads), sum(head.v for head in heads)
        self.columns, self.input = input_site(dim, inputs, "attention.input" in scored)
        self.query = nn.Linear(inputs or dim, inner_qk, bias=query_bias)
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


class QuickGELU(nn.Module):
    """x · sigmoid(1.702 x), the approximation of the GELU that CLIP was trained with."""

    def forward(self, x: Tensor) -> Tensor:
        """Map every entry."""
        return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "gelu": nn.GELU,
    "gelu_tanh": partial(nn.GELU, approximate="tanh"),
    "quick_gelu": QuickGELU,
}


class MLP(nn.Module):
    """Two linear layers around an activation; the hidden dims may carry importance scores."""

    def __init__(
        self,
        *,
        dim: int,
        inputs: int | None,
        hidden: int,
        dropout: float,
        scored: tuple[str, ...],
        activation: str,
    ) -> None:
        super().__init__()
        self.columns, self.input = input_site(dim, inputs, "mlp.input" in scored)
        self.up = nn.Linear(inputs or dim, hidden)
        self.activation = ACTIVATIONS[activation]()
        self.hidden = ImportanceScore(hidden) if "mlp.hidden" in scored else nn.Identity()
        self.down = nn.Linear(hidden, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BND: Tensor) -> Tensor:
        """Map (B, N, D) to (B, N, D)."""
        x = self.input(self.columns(x_BND))
        hidden = self.dropout(self.hidden(self.activation(self.up(x))))
        return self.dropout(self.down(hidden))  # type: ignore[no-any-return]


class StochasticDepth(nn.Module):
    """Drop a branch of the residual stream for some images of a batch while training (arXiv:1603.09382)."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x_BND: Tensor) -> Tensor:
        """Zero the branch of each image with the probability, and scale those that stay to keep the mean."""
        if not self.training or self.probability == 0:
            return x_BND
        ones = torch.ones(len(x_BND), 1, 1, dtype=x_BND.dtype, device=x_BND.device)
        return x_BND * F.dropout(ones, self.probability)


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, spec: ViTSpec, block: BlockSpec, stochastic_depth: float) -> None:
        super().__init__()
        shared = {"dim": spec.dim, "dropout": spec.dropout, "scored": spec.scored}
        self.attention_norm = nn.LayerNorm(spec.dim, spec.norm_epsilon)
        self.attention = Attention(
            heads=block.heads,
            inputs=block.attention_inputs,
            scale=spec.head_dim**-0.5,
            query_bias=spec.query_bias,
            **shared,  # type: ignore[arg-type]
        )
        self.mlp_norm = nn.LayerNorm(spec.dim, spec.norm_epsilon)
        self.mlp = MLP(
            hidden=block.hidden,
            inputs=block.mlp_inputs,
            activation=spec.activation,
            **shared,  # type: ignore[arg-type]
        )
        self.stochastic_depth = StochasticDepth(stochastic_depth)

    def forward(self, x_BND: Tensor, queries: int | None = None) -> Tensor:
        """Return the first `queries` tokens (None: all) of the block's output."""
        x = x_BND[:, :queries] + self.stochastic_depth(self.attention(self.attention_norm(x_BND), queries))
        return x + self.stochastic_depth(self.mlp(self.mlp_norm(x)))  # type: ignore[no-any-return]
