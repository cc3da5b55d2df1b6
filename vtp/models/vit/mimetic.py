"""Attention and positions that begin as those of trained models look (arXiv:2305.09828).

There a token attends to tokens like itself, and positions are waves, so that it attends to its neighbours first;
the values that it gathers are taken off the residual stream. Both are products of two weights, near a multiple of
the identity, and random beside it. docs/results.md has what it brings.
"""

import math

import torch
from torch import Tensor

from vtp.models.vit.block import Attention
from vtp.numerics import sqrt

QUERY_KEY, VALUE_OUTPUT = 0.7, -0.4  # how much of the identity, and of noise beside it
WAVELENGTHS = 10000.0  # the longest over the shortest


def begin_attention(attention: Attention) -> None:
    """Let Wq Wkᵀ of each head be near the identity, and what values and output make of a token near its negative.

    Each product is the best of its rank. Inner dims that go beyond the model's dims stay as they are.
    """
    first = 0
    for head, count in attention.groups:
        for _ in range(count):
            query, key = near_identity(QUERY_KEY, attention.query.in_features, head.qk)
            attention.query.weight[first : first + len(query)] = query
            attention.key.weight[first : first + len(key)] = key
            first += head.qk
    output, value = near_identity(VALUE_OUTPUT, attention.output.out_features, attention.value.out_features)
    attention.value.weight[: len(value)] = value
    attention.output.weight[:, : len(output)] = output.T


def near_identity(part: float, dim: int, rank: int) -> tuple[Tensor, Tensor]:
    """Return left and right, each (at most `rank`, `dim`) and float64, leftᵀ right near `part` · identity.

    It is the best approximation of that rank of part · I + |part| · Z, the entries of Z from N(0, 1/dim), and both
    have a share alike in it.
    """
    noise = torch.randn(dim, dim, dtype=torch.float64) / math.sqrt(dim)
    U, Sigma, Vh = torch.linalg.svd(abs(part) * noise + part * torch.eye(dim, dtype=torch.float64))
    root = sqrt(Sigma[:rank])[:, None]
    return root * U.T[:rank], root * Vh[:rank]


def waves(side: int, dim: int, std: float) -> Tensor:
    """Return positions (side², dim) of a square of patches, by row: sines and cosines of column and row.

    Their root mean square is `std`. Of `dim` a quarter each is sin(x), cos(x), sin(y), cos(y), of wavelengths from
    2π patches up (arXiv:2205.01580); what is left over of `dim` is zero.
    """
    count = dim // 4
    rates = [WAVELENGTHS ** (-i / max(1, count - 1)) for i in range(count)]
    # Python's functions, as PyTorch's have other bits on other CPUs.
    table = [[wave(place * rate) for wave in (math.sin, math.cos) for rate in rates] for place in range(side)]
    line = torch.tensor(table) * (std * math.sqrt(2))
    columns, rows = line.expand(side, -1, -1), line[:, None].expand(-1, side, -1)
    return torch.nn.functional.pad(torch.cat([columns, rows], 2).flatten(0, 1), (0, dim - 4 * count))
