"""Layers that torch.nn lacks: importance scores and low-rank layers."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vtp.errors import UserError
from vtp.models.spec import Factor


class ImportanceScore(nn.Module):
    """Multiply each dimension by its learned importance score `a` (the paper's section 2.2: X Diag(a)).

    Args:
        dims: number of scored dimensions.
        trailing_axes: axes of the input after the scored one: 0 for tokens (…, dims), 2 for images
            (B, dims, H, W).
    """

    def __init__(self, dims: int, trailing_axes: int = 0) -> None:
        super().__init__()
        self.score = nn.Parameter(torch.ones(dims))
        self.shape = (dims,) + (1,) * trailing_axes

    def reset_parameters(self) -> None:
        """Set every score to one: the input passes unchanged."""
        nn.init.ones_(self.score)

    def forward(self, x: Tensor) -> Tensor:
        """Scale the scored axis of x."""
        return x * self.score.view(self.shape)


class PivotMix(nn.Module):
    """The left factor (out × rank) of a product whose right factor is `rank` of its own rows, its pivots.

    At the pivots it is the identity, which is not stored; a mix of pivots makes the other rows. So the product
    takes rank × (in + out - rank) numbers (the interpolative decomposition; PIFA, arXiv:2501.19090). The factor is
    put together, in its order, at every call: that moves out × rank numbers, but no activations, which are more.

    Args:
        rank: of the product, at most `outputs`.
        outputs: rows of the product.
        bias: whether it adds a bias.
    """

    order: Tensor

    def __init__(self, rank: int, outputs: int, bias: bool) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.zeros(outputs - rank, rank))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.register_buffer("order", torch.zeros(outputs, dtype=torch.int32))

    @property
    def weight(self) -> Tensor:
        """The factor (out, rank): row i is row `order[i]` of the identity over the mix."""
        identity = torch.eye(self.mix.shape[1], dtype=self.mix.dtype, device=self.mix.device)
        return torch.cat([identity, self.mix]).index_select(0, self.order)

    def forward(self, x: Tensor) -> Tensor:
        """Map (…, rank) to (…, out)."""
        return F.linear(x, self.weight, self.bias)


class PivotMixConv2d(PivotMix):
    """The same as a 1×1 convolution."""

    kernel_size = stride = dilation = (1, 1)
    padding = (0, 0)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Map (B, rank, H, W) to (B, out, H, W)."""
        return F.conv2d(x_BCHW, self.weight[:, :, None, None], self.bias)


class _Product(nn.Module):
    """A layer of two, with the weight, bias and sizes, which some models look at, of the one they stand for."""

    left: nn.Module
    right: nn.Module

    def look_like(self, dense: nn.Module, *names: str) -> None:
        """Take over attributes of the layer that they stand for."""
        for name in names:
            setattr(self, name, getattr(dense, name))

    @property
    def weight(self) -> Tensor:
        """The product of both, of the shape of the dense layer's weight; made at every call."""
        left, right = cast(Tensor, self.left.weight), cast(Tensor, self.right.weight)
        return (left.flatten(1) @ right.flatten(1)).view(-1, *right.shape[1:])

    @property
    def bias(self) -> Tensor | None:
        """What is added."""
        return cast(Tensor | None, self.left.bias)


class LowRankLinear(_Product):
    """A linear layer whose weight (out × in) is left (out × rank) times right (rank × in).

    It costs rank × (in + out) multiply-accumulates a token where the dense layer costs in × out.

    Args:
        dense: the layer that it stands in for.
        factor: what stands in its place.
    """

    def __init__(self, dense: nn.Linear, factor: Factor) -> None:
        super().__init__()
        self.right = nn.Linear(dense.in_features, factor.rank, bias=False)
        left = nn.Linear if factor.form == "pair" else PivotMix
        self.left = left(factor.rank, dense.out_features, bias=factor.bias)
        self.look_like(dense, "in_features", "out_features")

    def forward(self, input: Tensor) -> Tensor:
        """Map (…, in) to (…, out); some models give the argument by its name, which is that of PyTorch's layer."""
        return self.left(self.right(input))  # type: ignore[no-any-return]


class LowRankConv2d(_Product):
    """A convolution whose weight (out × in·k·k) is left (out × rank) times right (rank × in·k·k).

    The right factor is a k×k convolution to `rank` channels, with the stride and padding of the dense layer;
    the left one a 1×1 convolution to the outputs (the channel decomposition of arXiv:1505.06798). It costs
    rank × (in·k·k + out) multiply-accumulates a pixel of the output where the dense layer costs in·k·k × out.

    Args:
        dense: the layer that it stands in for, without groups.
        factor: what stands in its place.
    """

    def __init__(self, dense: nn.Conv2d, factor: Factor) -> None:
        super().__init__()
        self.right = nn.Conv2d(
            dense.in_channels,
            factor.rank,
            dense.kernel_size,  # type: ignore[arg-type]
            stride=dense.stride,  # type: ignore[arg-type]
            padding=dense.padding,  # type: ignore[arg-type]
            dilation=dense.dilation,  # type: ignore[arg-type]
            bias=False,
        )
        left = partial(nn.Conv2d, kernel_size=1) if factor.form == "pair" else PivotMixConv2d
        self.left = left(factor.rank, dense.out_channels, bias=factor.bias)
        self.look_like(
            dense, "in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups"
        )

    def forward(self, input: Tensor) -> Tensor:
        """Map (B, in, H, W) to (B, out, H / stride, W / stride)."""
        return self.left(self.right(input))  # type: ignore[no-any-return]


def factor_of(layer: LowRankLinear | LowRankConv2d) -> Factor:
    """Return what was put in the place of a layer."""
    rank = cast(Tensor, layer.right.weight).shape[0]
    return Factor(rank, layer.bias is not None, "pivot" if isinstance(layer.left, PivotMix) else "pair")


LOW_RANK: dict[type[nn.Module], Callable[[Any, Factor], nn.Module]] = {
    nn.Linear: LowRankLinear,
    nn.Conv2d: LowRankConv2d,
}


def fill(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give `model` copies of the weights in `state`, in their dtype.

    Raises UserError naming the first tensor that is missing, left over, or of another shape.
    """
    check_shapes(model.state_dict(), state)
    model.load_state_dict({name: tensor.clone() for name, tensor in state.items()}, assign=True)


def check_shapes(wanted: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Raise UserError naming the first tensor of `state` that is missing, left over, or of another shape."""
    for name in sorted(wanted.keys() | state.keys()):
        found = tuple(state[name].shape) if name in state else "missing"
        allowed = tuple(wanted[name].shape) if name in wanted else "absent"
        if found != allowed:
            raise UserError(f"tensor {name} is {found}, but the model wants it {allowed}")


def replace_by_factors(model: nn.Module, factors: Mapping[str, Factor]) -> None:
    """Put a pair of factors, not yet filled, in the place of each layer that `factors` names."""
    for name, factor in factors.items():
        dense = model.get_submodule(name)
        kind = nn.Conv2d if isinstance(dense, nn.Conv2d) else nn.Linear
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, LOW_RANK[kind](dense, factor))


class Columns(nn.Module):
    """Pass on some dimensions of the last axis: the columns that the projections behind it still read.

    Args:
        count: how many are passed on; which ones is a buffer, `index`, of whole numbers.
    """

    index: Tensor

    def __init__(self, count: int) -> None:
        super().__init__()
        self.register_buffer("index", torch.zeros(count, dtype=torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        """Map (…, dims) to (…, count)."""
        return x.index_select(-1, self.index.int())
