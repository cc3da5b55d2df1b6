"""Layers as plain products: what the pivot form multiplies by is put together once."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from vtp.models.layers import LowRankConv2d, LowRankLinear

Factors = list[tuple[Tensor, Tensor | None]]
"""Weights (out, in) by which rows are multiplied one after the other, each with its bias (out), if any."""


def factors_of(layer: nn.Module) -> Factors:
    """Return what a linear layer multiplies rows by: its weight, or its right and left factor."""
    parts = [layer.right, layer.left] if isinstance(layer, LowRankLinear) else [layer]
    return [(cast(Tensor, part.weight).detach(), cast(Tensor | None, part.bias)) for part in parts]


def linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """Return the linear layer of a weight (out, in) and a bias (out), which share its memory."""
    made = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    state = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
    made.load_state_dict({name: tensor.detach().contiguous() for name, tensor in state.items()}, assign=True)
    return made.requires_grad_(False)


def sequence(factors: Factors) -> nn.Sequential:
    """Return linear layers that multiply by these, one after the other."""
    return nn.Sequential(*(linear(weight, bias) for weight, bias in factors))


def scaled(factors: Factors, scale: float) -> Factors:
    """Return what gives `scale` times as much."""
    *first, (weight, bias) = factors
    return [*first, (weight * scale, None if bias is None else bias * scale)]


class Together(nn.Module):
    """Some layers that read the same rows: their first weights are one matrix, and on its parts the others follow.

    Args:
        layers: what each multiplies by.
    """

    def __init__(self, layers: Sequence[Factors]) -> None:
        super().__init__()
        weights, biases = zip(*(factors[0] for factors in layers), strict=True)
        self.sizes = [len(weight) for weight in weights]
        added = [
            weight.new_zeros(len(weight)) if bias is None else bias
            for weight, bias in zip(weights, biases, strict=True)
        ]
        has_bias = any(bias is not None for bias in biases)
        self.first = linear(torch.cat(weights), torch.cat(added) if has_bias else None)
        self.rests = nn.ModuleList(sequence(factors[1:]) for factors in layers)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return what each layer makes of rows (R, in)."""
        parts = self.first(x).split(self.sizes, 1)
        return [rest(part) for rest, part in zip(self.rests, parts, strict=True)]


def as_pair(layer: LowRankLinear | LowRankConv2d) -> nn.Sequential:
    """Return both factors as plain layers."""
    if isinstance(layer, LowRankLinear):
        return sequence(factors_of(layer))
    weight, bias = cast(Tensor, layer.left.weight), layer.bias
    left = nn.Conv2d(weight.shape[1], len(weight), 1, bias=bias is not None, device="meta")
    state = {"weight": weight.view(*weight.shape[:2], 1, 1)} | ({} if bias is None else {"bias": bias})
    left.load_state_dict(state, assign=True)
    return nn.Sequential(layer.right, left.requires_grad_(False))
