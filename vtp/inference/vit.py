"""A vision transformer in the form in which it answers fastest.

The tokens of all images are the rows of one matrix. Shape suffixes: B images, N tokens of each, M of them that
attend, R rows (images times tokens), H heads, K dims of a query or key, V of a value, D model dims.
"""

from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vtp.inference.layers import Together, factors_of, linear, scaled, sequence
from vtp.models.vit.block import Attention, Block
from vtp.models.vit.module import VisionTransformer

MANY_TOKENS = 100  # from which on the fused attention is faster than plain products, by what it saves in memory


class FusedAttention(nn.Module):
    """Attention whose query, key and value read their rows in one product.

    The softmax scale is part of the query's last weight and of its bias.

    Args:
        attention: what it stands for.
        queries: how many tokens of each image attend, None: all. If not all do, the query reads its rows alone.
    """

    def __init__(self, attention: Attention, queries: int | None) -> None:
        super().__init__()
        self.groups, self.queries, self.columns = attention.groups, queries, attention.columns
        query = scaled(factors_of(attention.query), attention.scale)
        key, value = factors_of(attention.key), factors_of(attention.value)
        self.query = None if queries is None else sequence(query)
        self.readers = Together([query, key, value] if queries is None else [key, value])
        self.output = sequence(factors_of(attention.output))

    def forward(self, x_RD: Tensor, tokens: int) -> Tensor:
        """Return what is added to the tokens that attend; the rows are those of so many tokens of each image."""
        x = self.columns(x_RD)
        *q, k, v = self.readers(x)
        attending = tokens if self.queries is None else self.queries
        if self.query is not None:
            q = [self.query(leading(x, tokens, attending))]
        sizes_qk = [head.qk * count for head, count in self.groups]
        sizes_v = [head.v * count for head, count in self.groups]
        attended = []
        for (_, count), q_g, k_g, v_g in zip(
            self.groups, q[0].split(sizes_qk, 1), k.split(sizes_qk, 1), v.split(sizes_v, 1), strict=True
        ):
            heads = (by_head(q_g, attending, count), by_head(k_g, tokens, count), by_head(v_g, tokens, count))
            attended.append(attend(*heads).transpose(1, 2).flatten(2).flatten(0, 1))
        return self.output(torch.cat(attended, 1) if len(attended) > 1 else attended[0])  # type: ignore[no-any-return]


class FusedBlock(nn.Module):
    """A block whose tokens are rows; `queries` of each image's leave it, None: all."""

    def __init__(self, block: Block, queries: int | None) -> None:
        super().__init__()
        self.queries = queries
        self.attention_norm, self.mlp_norm = block.attention_norm, block.mlp_norm
        self.attention = FusedAttention(block.attention, queries)
        mlp = block.mlp
        up, down = sequence(factors_of(mlp.up)), sequence(factors_of(mlp.down))
        self.mlp = nn.Sequential(mlp.columns, up, mlp.activation, down)

    def forward(self, x_RD: Tensor, tokens: int) -> Tensor:
        """Map the rows of so many tokens of each image."""
        attended = self.attention(self.attention_norm(x_RD), tokens)
        # In place, so that no memory is touched for the first time.
        x = attended.add_(x_RD if self.queries is None else leading(x_RD, tokens, self.queries))
        return self.mlp(self.mlp_norm(x)).add_(x)  # type: ignore[no-any-return]


class FusedVisionTransformer(VisionTransformer):
    """A vision transformer without importance scores, to answer with; it shares weights with the model.

    The normalisation of the pixels is part of the embedding.

    Args:
        model: what it stands for.
    """

    def __init__(self, model: VisionTransformer) -> None:
        spec, state = model.spec, model.state_dict()
        with torch.device("meta"):
            super().__init__(replace(spec, blocks=(), factors={}))
        self.spec = spec
        self.load_state_dict({name: state[name] for name in self.state_dict()}, assign=True)
        areas = spec.patch_size**2
        weight = state["embedding.weight"] / model.std.repeat(areas)
        self.embedding = linear(weight, state["embedding.bias"] - weight @ model.mean.repeat(areas))
        blocks = [cast(Block, block) for block in model.blocks]
        self.blocks.extend(FusedBlock(block, model.queries(index)) for index, block in enumerate(blocks))
        self.eval()

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits (B, classes) of images of pixel values 0 to 255, uint8 or floating."""
        x_BND = self.placed(self.embedding(self.patches(images_BCHW).to(self.positions.dtype)))
        tokens, x_RD = len(self.positions), x_BND.flatten(0, 1)
        for block in self.blocks:
            x_RD = block(x_RD, tokens)
        left = self.queries(len(self.blocks) - 1) or tokens
        return self.classify(cast(Tensor, x_RD.unflatten(0, (-1, left))))

    def parts(self, layer: str) -> list[tuple[nn.Module, float]]:
        """Return the modules that do the work of a layer of the model, and their time's part for it."""
        _, index, part, name = layer.split(".")
        block = cast(FusedBlock, self.blocks[int(index)])
        if part == "mlp":
            return [(block.mlp[1 if name == "up" else 3], 1.0)]
        attention = block.attention
        if name == "output":
            return [(attention.output, 1.0)]
        if name == "query" and attention.query is not None:
            return [(attention.query, 1.0)]
        readers = attention.readers
        place = ("query", "key", "value").index(name) - (attention.query is not None)
        return [(readers.first, readers.sizes[place] / sum(readers.sizes)), (readers.rests[place], 1.0)]


def attend(q_BHMK: Tensor, k_BHNK: Tensor, v_BHNV: Tensor) -> Tensor:
    """Return softmax(q kᵀ) v (B, heads, queries, V).

    On a CPU PyTorch's fused attention wants as many dims of keys as of values, and takes two to four times as long
    with others: longer than plain products where tokens are few, and than dims that are filled up with zeros. What
    is exported has plain products anyway.
    """
    dims, others = v_BHNV.shape[-1], k_BHNK.shape[-1]
    if dims != others and (k_BHNK.shape[-2] < MANY_TOKENS or torch.compiler.is_exporting()):
        return (q_BHMK @ k_BHNK.transpose(-2, -1)).softmax(-1) @ v_BHNV
    if dims < others:
        v_BHNV = F.pad(v_BHNV, (0, others - dims))
    elif dims > others:
        q_BHMK, k_BHNK = (F.pad(x, (0, dims - others)) for x in (q_BHMK, k_BHNK))
    return F.scaled_dot_product_attention(q_BHMK, k_BHNK, v_BHNV, scale=1.0)[..., :dims]


def leading(x_RD: Tensor, tokens: int, count: int) -> Tensor:
    """Return the rows of the first `count` of each image's tokens."""
    x_BND: Tensor = x_RD.unflatten(0, (-1, tokens))
    return x_BND[:, :count].flatten(0, 1)


def by_head(rows: Tensor, tokens: int, heads: int) -> Tensor:
    """Return rows (R, heads · dims) as (B, heads, tokens, dims)."""
    x: Tensor = rows.unflatten(0, (-1, tokens)).unflatten(2, (heads, -1))
    return x.transpose(1, 2)
