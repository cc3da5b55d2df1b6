"""The vision transformer (arXiv:2010.11929), built from a spec; by default in the form of the paper's code.

Class token, learned positions, norms before the layers, GELU; q, k and v without a bias. Each head of each block
has its own q/k and v dims, so that a pruned model is an ordinary one.
Shape suffixes: B images, N tokens, D model dims.
"""

from collections.abc import Callable
from functools import partial
from itertools import groupby

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vtp.models.base import Model
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


class VisionTransformer(Model):
    """Prefix tokens and patches, blocks, pooling and norm, linear head."""

    writers = ("attention.output", "mlp.down")
    spec: ViTSpec

    def __init__(self, spec: ViTSpec) -> None:
        super().__init__(spec)
        patches, prefix = (spec.image_size // spec.patch_size) ** 2, spec.prefix_tokens
        self.embedding = nn.Linear(spec.channels * spec.patch_size**2, spec.dim)
        self.class_token = nn.Parameter(torch.zeros(spec.dim)) if prefix else None
        self.registers = nn.Parameter(torch.zeros(prefix - 1, spec.dim)) if prefix > 1 else None
        self.positions = nn.Parameter(torch.zeros(prefix + patches, spec.dim))
        self.dropout = nn.Dropout(spec.dropout)
        self.pre_norm = nn.LayerNorm(spec.dim, spec.norm_epsilon) if spec.pre_norm else nn.Identity()
        rise = spec.stochastic_depth / max(1, len(spec.blocks) - 1)
        self.blocks = nn.ModuleList(Block(spec, block, i * rise) for i, block in enumerate(spec.blocks))
        self.norm = nn.Identity() if spec.norm == "none" else nn.LayerNorm(spec.dim, spec.norm_epsilon)
        features = spec.dim * len(spec.pool)
        self.representation = nn.Linear(features, spec.representation) if spec.representation else None
        self.head = nn.Linear(spec.representation or features, spec.classes)

    def embed(self, images_BCHW: Tensor) -> Tensor:
        """Patches, projected, after the prefix tokens, plus positions: (B, N, D)."""
        return self.placed(self.embedding(self.patches(self.normalised(images_BCHW))))

    def patches(self, pixels_BCHW: Tensor) -> Tensor:
        """The pixels of each patch, by row, column and channel: (B, patches, C · patch_size²)."""
        size = self.spec.patch_size
        patches: Tensor = pixels_BCHW.unflatten(3, (-1, size)).unflatten(2, (-1, size))  # B C rows p columns p
        return patches.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)

    def placed(self, patches_BND: Tensor) -> Tensor:
        """Projected patches after the prefix tokens, plus positions: (B, N, D)."""
        tokens, count = [patches_BND], patches_BND.shape[0]
        if self.registers is not None:
            tokens.insert(0, self.registers.to(tokens[0].dtype).expand(count, -1, -1))
        if self.class_token is not None:
            tokens.insert(0, self.class_token.to(tokens[0].dtype).expand(count, 1, -1))
        return self.pre_norm(self.dropout(torch.cat(tokens, 1) + self.positions))  # type: ignore[no-any-return]

    def run_block(self, index: int, x_BND: Tensor) -> Tensor:
        """What the block makes of its tokens; of the last block's, only those that the head reads are computed.

        Nothing else is read after it: the logits are the same.
        """
        return self.blocks[index](x_BND, queries=self.queries(index))  # type: ignore[no-any-return]

    def queries(self, index: int) -> int | None:
        """Return how many tokens, from the first on, are read of what block `index` gives; None: all."""
        pool = self.spec.pool
        if index < len(self.spec.blocks) - 1 or "patches" in pool:
            return None
        return 2 if "distillation" in pool else 1

    def classify(self, x_BND: Tensor) -> Tensor:
        """Logits of the pooled tokens."""
        x = self.norm(x_BND) if self.spec.norm == "tokens" else x_BND
        pooled = [self._pooled(x, part) for part in self.spec.pool]
        if self.spec.norm == "pooled":
            pooled = [self.norm(features) for features in pooled]
        features = torch.cat(pooled, -1) if len(pooled) > 1 else pooled[0]
        if self.representation is not None:
            features = self.representation(features).tanh()
        return self.head(features)  # type: ignore[no-any-return]

    def _pooled(self, x_BND: Tensor, part: str) -> Tensor:
        """Return what `part` of `pool` stands for: (B, D)."""
        if part == "patches":
            return x_BND[:, self.spec.prefix_tokens :].mean(1)
        return x_BND[:, 1 if part == "distillation" else 0]

    def head_dims(self) -> dict[str, list[int]]:
        """Return site -> the dims of each head, for the inner dims of every block's attention."""
        blocks = enumerate(self.spec.blocks)
        return {f"blocks.{index}.attention.inner": [head.v for head in block.heads] for index, block in blocks}

    @torch.no_grad()
    def initialise(self) -> None:
        """Xavier-uniform weights and zero biases, but a zero head; positions and prefix tokens are normal.

        Xavier keeps the residual stream's variance at any width and depth used here; the zero head starts
        training at the uniform distribution, as in the original ViT. Prefix tokens have a deviation of 0.02,
        positions that of the spec: beside patches of unit variance, positions of 0.02 are learnt late.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm | ImportanceScore):
                module.reset_parameters()
        nn.init.zeros_(self.head.weight)
        for tokens, std in (
            (self.class_token, 0.02),
            (self.positions, self.spec.position_std),
            (self.registers, 0.02),
        ):
            if tokens is not None:
                nn.init.normal_(tokens, std=std)
