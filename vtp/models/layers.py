"""Layers that torch.nn lacks: importance scores and low-rank layers."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

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


class LowRankLinear(nn.Module):
    """A linear layer whose weight (out × in) is left (out × rank) times right (rank × in).

    It costs rank × (in + out) multiply-accumulates a token where the dense layer costs in × out.

    Args:
        dense: the layer that it stands in for.
        rank: of the product.
        bias: whether it adds a bias.
    """

    def __init__(self, dense: nn.Linear, rank: int, bias: bool) -> None:
        super().__init__()
        self.right = nn.Linear(dense.in_features, rank, bias=False)
        self.left = nn.Linear(rank, dense.out_features, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (…, in) to (…, out)."""
        return self.left(self.right(x))  # type: ignore[no-any-return]


class LowRankConv2d(nn.Module):
    """A convolution whose weight (out × in·k·k) is left (out × rank) times right (rank × in·k·k).

    The right factor is a k×k convolution to `rank` channels, with the stride and padding of the dense layer;
    the left one a 1×1 convolution to the outputs (the channel decomposition of arXiv:1505.06798). It costs
    rank × (in·k·k + out) multiply-accumulates a pixel of the output where the dense layer costs in·k·k × out.

    Args:
        dense: the layer that it stands in for, without groups.
        rank: of the product.
        bias: whether it adds a bias.
    """

    def __init__(self, dense: nn.Conv2d, rank: int, bias: bool) -> None:
        super().__init__()
        self.right = nn.Conv2d(
            dense.in_channels,
            rank,
            dense.kernel_size,  # type: ignore[arg-type]
            stride=dense.stride,  # type: ignore[arg-type]
            padding=dense.padding,  # type: ignore[arg-type]
            dilation=dense.dilation,  # type: ignore[arg-type]
            bias=False,
        )
        self.left = nn.Conv2d(rank, dense.out_channels, 1, bias=bias)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Map (B, in, H, W) to (B, out, H / stride, W / stride)."""
        return self.left(self.right(x_BCHW))  # type: ignore[no-any-return]


LOW_RANK: dict[type[nn.Module], Callable[[Any, int, bool], nn.Module]] = {
    nn.Linear: LowRankLinear,
    nn.Conv2d: LowRankConv2d,
}


def fill(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give `model` copies of the weights in `state`, in their dtype.

    Raises UserError naming the first tensor that is missing, left over, or of another shape.
    """
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    for name in sorted(expected.keys() | state.keys()):
        found = tuple(state[name].shape) if name in state else "missing"
        allowed = tuple(expected[name]) if name in expected else "absent"
        if found != allowed:
            raise UserError(f"tensor {name} is {found}, but the model wants it {allowed}")
    model.load_state_dict({name: tensor.clone() for name, tensor in state.items()}, assign=True)


def replace_by_factors(model: nn.Module, factors: Mapping[str, Factor]) -> None:
    """Put a pair of factors, not yet filled, in the place of each layer that `factors` names."""
    for name, factor in factors.items():
        dense = model.get_submodule(name)
        kind = nn.Conv2d if isinstance(dense, nn.Conv2d) else nn.Linear
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, LOW_RANK[kind](dense, factor.rank, factor.bias))


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
