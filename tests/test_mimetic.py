"""What weights and positions that begin as those of trained models promise (arXiv:2305.09828)."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.models import random_images, small_spec
from tests.params import vit_params
from vtp.models import dense_spec, initialised
from vtp.models.vit.block import Attention
from vtp.models.vit.mimetic import near_identity, waves
from vtp.models.vit.module import VisionTransformer

SIDE = 8  # patches


def untrained(mimetic: bool, seed: int = 0) -> VisionTransformer:
    """A ViT of 8 × 8 patches, with four heads of a quarter of its dims."""
    params = vit_params(patch_size=4, dim=64, heads=4, head_dim=16, position_std=0.5, mimetic=mimetic)
    spec = dense_spec(params, image_size=SIDE * 4, channels=3, classes=10)
    model = initialised(spec, seed, (0.0,) * 3, (1.0,) * 3).eval()
    assert isinstance(model, VisionTransformer)
    return model


def first_attention(model: VisionTransformer) -> Attention:
    attention = model.blocks[0].attention
    assert isinstance(attention, Attention)
    return attention


def read_of(model: VisionTransformer) -> Tensor:
    """What the first attention reads of the patches of a black image: (patches, D)."""
    black = torch.zeros(1, 3, SIDE * 4, SIDE * 4)
    read: Tensor = model.blocks[0].attention_norm(model.embed(black))[0, 1:]  # type: ignore[union-attr, operator]
    return read


@torch.no_grad()
def attention_at_distance(model: VisionTransformer) -> list[float]:
    """How much a patch attends, on average, to one that is 0, 1, 2 or 3 patches away on its row or column."""
    read, attention = read_of(model), first_attention(model)
    q, k = (layer(read).unflatten(1, (4, 16)).transpose(0, 1) for layer in (attention.query, attention.key))
    weights = (q * attention.scale @ k.transpose(1, 2)).softmax(-1).mean(0)
    place = torch.stack([torch.arange(SIDE**2) // SIDE, torch.arange(SIDE**2) % SIDE], 1)
    apart = (place[:, None] - place).abs()
    return [float(weights[(apart.sum(2) == steps) & (apart.amin(2) == 0)].mean()) for steps in range(4)]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_patches_attend_to_themselves_first_then_to_their_neighbours(seed: int) -> None:
    by_distance = attention_at_distance(untrained(True, seed))
    assert all(near > 1.1 * far for near, far in pairwise(by_distance))
    assert by_distance[0] > 2 * attention_at_distance(untrained(False, seed))[0]


@torch.no_grad()
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_values_of_a_token_are_taken_off_what_it_is(seed: int) -> None:
    torch.manual_seed(seed)
    attention, read = first_attention(untrained(True, seed)), torch.randn(500, 64)
    gathered = attention.output(attention.value(read))
    assert float((read * gathered).sum() / read.square().sum()) == pytest.approx(-0.4, abs=0.05)


@given(part=st.floats(-2, 2), dim=st.integers(1, 24), rank=st.integers(1, 30), seed=st.integers(0, 99))
@settings(max_examples=40)
def test_product_is_the_best_of_its_rank_and_shared_alike(part: float, dim: int, rank: int, seed: int) -> None:
    """Against the product of full rank, which the same draws make."""
    torch.manual_seed(seed)
    left, right = near_identity(part, dim, rank)
    torch.manual_seed(seed)
    full_left, full_right = near_identity(part, dim, dim)
    full = full_left.T @ full_right
    rest = torch.linalg.svdvals(full)[rank:]
    assert left.shape == right.shape == (min(rank, dim), dim)
    assert float((full - left.T @ right).norm()) == pytest.approx(float(rest.norm()), abs=1e-9)
    torch.testing.assert_close(left @ left.T, right @ right.T, rtol=0, atol=1e-9)


@pytest.mark.parametrize("part", [0.7, -0.4])
def test_product_of_full_rank_is_identity_and_noise(part: float) -> None:
    torch.manual_seed(0)
    left, right = near_identity(part, 200, 200)
    product = left.T @ right
    noise = product - part * torch.eye(200, dtype=torch.float64)
    assert float(product.diagonal().mean()) == pytest.approx(part, rel=0.02)
    assert float(noise.square().mean() ** 0.5) == pytest.approx(abs(part) / 200**0.5, rel=0.02)


@given(side=st.integers(1, 9), dim=st.integers(4, 40), std=st.floats(0.01, 2))
@settings(max_examples=40)
def test_positions_that_are_as_far_apart_are_as_alike(side: int, dim: int, std: float) -> None:
    table = waves(side, dim, std).double()
    used = 4 * (dim // 4)
    assert table.shape == (side**2, dim)
    assert not table[:, used:].any()
    assert float(table[:, :used].square().mean() ** 0.5) == pytest.approx(std, rel=1e-5)
    alike = (table @ table.T).view(side, side, side, side)
    if side > 1:
        torch.testing.assert_close(alike[1:, 1:, 1:, 1:], alike[:-1, :-1, :-1, :-1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_dims_too_few_for_a_wave_in_each_direction_have_no_positions(dim: int) -> None:
    assert torch.equal(waves(3, dim, 0.5), torch.zeros(9, dim))


def test_inner_dims_beyond_those_of_the_model_begin_by_xavier() -> None:
    """The small model has 18 inner dims for 16."""
    model = initialised(small_spec("vit", mimetic=True), 0, (120.0,) * 3, (60.0,) * 3)
    assert isinstance(model, VisionTransformer)
    attention = first_attention(model)
    assert model(random_images(model.spec)).isfinite().all()
    assert attention.value.weight[16:].any(1).all()
    assert attention.output.weight[:, 16:].any(0).all()
