"""What pruning promises: the slim model computes what the masked one did, and what was removed is gone."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.models import (
    KINDS,
    RATES,
    both,
    models_and_masks,
    random_images,
    random_model,
    scored_models,
    small_spec,
)
from vtp.cost import macs, parameters
from vtp.models import Model, spec_to_plain
from vtp.models.vit.spec import HeadSpec
from vtp.prune import keep_masks, masked, slim
from vtp.scores import scores, with_scores
from vtp.sealed import digest

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}
some = settings(max_examples=15)


@torch.no_grad()
def difference(model: Model, masks: dict[str, Tensor], images: Tensor) -> float:
    """Largest difference of the logits of masked and slim model; in float64 predictions must be equal too."""
    wanted, found = masked(model, masks)(images), slim(model, masks)(images)
    assert found.dtype == wanted.dtype
    if wanted.dtype == torch.float64:  # in float32 two classes of random models may tie
        assert torch.equal(found.argmax(1), wanted.argmax(1))
    return float((found - wanted).abs().max())


def fingerprint(model: Model) -> str:
    return digest(model.state_dict(), spec_to_plain(model.spec))


@both
@pytest.mark.parametrize("dtype", TOLERANCE)
@given(data=st.data())
@some
def test_slim_is_exact_for_any_mask(family: str, dtype: torch.dtype, data: st.DataObject) -> None:
    model, masks = data.draw(models_and_masks(family, dtype))
    assert difference(model, masks, random_images(model.spec)) <= TOLERANCE[dtype]


@both
@pytest.mark.parametrize("dtype", TOLERANCE)
@given(data=st.data(), rate=RATES)
@some
def test_slim_is_exact_at_any_rate(family: str, dtype: torch.dtype, data: st.DataObject, rate: float) -> None:
    model = data.draw(scored_models(family, dtype))
    assert difference(model, keep_masks(scores(model), rate), random_images(model.spec)) <= TOLERANCE[dtype]


@both
@given(data=st.data())
@some
def test_slim_is_smaller_and_leaves_its_input_alone(family: str, data: st.DataObject) -> None:
    model, masks = data.draw(models_and_masks(family))
    before = fingerprint(model)
    slimmed = slim(model, masks)
    masked(model, masks)
    assert fingerprint(model) == before
    assert slimmed.spec.scored == ()
    unscored = parameters(replace(model.spec, scored=()))
    assert parameters(slimmed.spec) == sum(tensor.numel() for tensor in slimmed.parameters())
    assert (parameters(slimmed.spec) == unscored) == all(mask.all() for mask in masks.values())
    assert parameters(slimmed.spec) <= unscored


@pytest.mark.parametrize(("family", "macs_a_dim"), [("vit", 2 * 5 * 16), ("resnet18", 2 * 64 * 9 * 8)])
def test_every_removed_dim_is_absent_from_the_work(family: str, macs_a_dim: int) -> None:
    """A hidden dim of the MLP: 5 tokens × 16 dims, twice; a channel: 64 pixels × 9 × 8 channels, twice."""
    model = random_model(small_spec(family, scored=KINDS[family]), seed=4)
    masks = {site: torch.ones(len(score), dtype=torch.bool) for site, score in scores(model).items()}
    before = macs(slim(model, masks).spec)
    site = {"vit": "blocks.0.mlp.hidden", "resnet18": "blocks.0.inner"}[family]
    masks[site][-3:] = False
    assert macs(slim(model, masks).spec) == before - 3 * macs_a_dim


def attention_mask(*kept: int) -> Tensor:
    """Three heads of six dims each, of which the dims `kept` stay."""
    mask = torch.zeros(18, dtype=torch.bool)
    mask[list(kept)] = True
    return mask


@pytest.mark.parametrize(
    ("mask", "heads"),
    [
        (attention_mask(7), [1]),
        (attention_mask(0, 1, 2, 17), [1, 3]),
        (attention_mask(*range(6, 12)), [6]),
        (attention_mask(0, 1, 6, 7, 8, 12, 13), [2, 2, 3]),
    ],
)
def test_each_head_keeps_its_own_dims_and_empty_heads_vanish(mask: Tensor, heads: list[int]) -> None:
    model = random_model(small_spec("vit", scored=KINDS["vit"]), seed=0)
    masks = {site: torch.ones(len(score), dtype=torch.bool) for site, score in scores(model).items()}
    masks["blocks.1.attention.inner"] = mask
    block = slim(model, masks).spec.blocks[1]
    assert block.heads == tuple(HeadSpec(dims, dims) for dims in heads)
    assert difference(model, masks, random_images(model.spec)) <= 1e-12


@pytest.mark.parametrize(
    ("family", "site", "weight"),
    [("vit", "blocks.0.mlp.hidden", "blocks.0.mlp.down"), ("resnet18", "blocks.0.inner", "blocks.0.conv2")],
)
def test_folded_weights_are_the_exact_products_rounded_once(family: str, site: str, weight: str) -> None:
    model = random_model(small_spec(family, scored=KINDS[family]), seed=1, dtype=torch.float32)
    masks = {name: torch.ones(len(score), dtype=torch.bool) for name, score in scores(model).items()}
    before, score = model.get_parameter(f"{weight}.weight"), scores(model)[site]
    exact = before.double() * score.double().view(1, -1, *[1] * (before.ndim - 2))
    assert torch.equal(slim(model, masks).get_parameter(f"{weight}.weight"), exact.float())


@both
def test_scores_of_one_change_nothing(family: str) -> None:
    model = random_model(small_spec(family), seed=2, dtype=torch.float32)
    images = random_images(model.spec)
    scored = with_scores(model, KINDS[family])
    assert torch.equal(scored(images), model(images))
    everything = {site: torch.ones(len(score), dtype=torch.bool) for site, score in scores(scored).items()}
    assert fingerprint(slim(scored, everything)) == fingerprint(model)


@both
def test_slim_model_trains_on(family: str) -> None:
    model = random_model(small_spec(family, scored=KINDS[family]), seed=3, dtype=torch.float32)
    slimmed = slim(model, keep_masks(scores(model), 0.5)).train()
    optimizer = torch.optim.Adam(slimmed.parameters(), 0.01)
    images, labels = random_images(model.spec), torch.arange(8) % 4
    losses = []
    for _ in range(20):
        loss = torch.nn.functional.cross_entropy(slimmed(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
