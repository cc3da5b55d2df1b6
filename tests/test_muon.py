"""Muon against PyTorch's own, and what it is by definition."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from vtp.training.muon import Muon, orthogonal

SHAPES = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=3)
RATE, DECAY = 0.01, 0.1


def moved(
    optimizer: torch.optim.Optimizer, weights: list[nn.Parameter], gradients: list[list[torch.Tensor]]
) -> None:
    """Take a step for each of the lists of gradients."""
    for each in gradients:
        for weight, gradient in zip(weights, each, strict=True):
            weight.grad = gradient.view_as(weight).clone()
        optimizer.step()


@settings(max_examples=50)
@given(SHAPES, st.integers(0, 2**31))
def test_weights_go_where_pytorchs_muon_takes_them(shapes: list[tuple[int, int]], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    shapes = [*shapes, *shapes]  # some are alike
    start, *gradients = [[torch.randn(shape, generator=generator) for shape in shapes] for _ in range(4)]
    ours, theirs = ([nn.Parameter(weight.clone()) for weight in start] for _ in range(2))
    muon = Muon(ours, DECAY)
    muon.param_groups[0]["lr"] = RATE
    moved(muon, ours, gradients)
    moved(torch.optim.Muon(theirs, RATE, weight_decay=DECAY, adjust_lr_fn="match_rms_adamw"), theirs, gradients)
    with torch.no_grad():
        for weight, expected, before in zip(ours, theirs, start, strict=True):
            assert (weight - expected).norm() <= 0.2 * (expected - before).norm()  # theirs rounds to 8 bits


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 3), st.integers(0, 2**31))
def test_a_convolution_moves_as_its_matrix_does(out: int, channels: int, side: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    start, *gradients = (torch.randn(out, channels, side, side, generator=generator) for _ in range(3))
    convolution, matrix = nn.Parameter(start.clone()), nn.Parameter(start.flatten(1).clone())
    muon = Muon([convolution, matrix], DECAY)
    muon.param_groups[0]["lr"] = RATE
    moved(muon, [convolution, matrix], [[gradient, gradient] for gradient in gradients])
    assert torch.allclose(convolution.flatten(1), matrix, atol=1e-6)


@given(st.integers(1, 4), st.integers(2, 30), st.integers(2, 30), st.integers(0, 2**31))
def test_an_update_has_the_directions_of_the_matrix_and_sizes_near_one(
    count: int, rows: int, columns: int, seed: int
) -> None:
    matrices = torch.randn(count, rows, columns, generator=torch.Generator().manual_seed(seed))
    U, Sigma, Vh = torch.linalg.svd(matrices, full_matrices=False)
    inside = U.mT @ orthogonal(matrices) @ Vh.mT
    sizes = inside.diagonal(dim1=1, dim2=2)
    assert (inside - torch.diag_embed(sizes)).abs().max() < 0.1
    large = Sigma > 0.05 * Sigma.amax(1, keepdim=True)
    assert ((sizes[large] > 0.5) & (sizes[large] < 1.3)).all()


def test_a_weight_without_a_gradient_stays_and_a_gradient_of_zeros_only_decays() -> None:
    still, decayed = nn.Parameter(torch.ones(3, 2)), nn.Parameter(torch.ones(3, 2))
    decayed.grad = torch.zeros(3, 2)
    muon = Muon([still, decayed], DECAY)
    muon.param_groups[0]["lr"] = RATE
    muon.step()
    assert torch.equal(still, torch.ones(3, 2))
    assert torch.equal(decayed, torch.full((3, 2), 1 - RATE * DECAY))
