"""Vision transformers of other libraries, compressed and trained as our own."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import vtp.data.sources.torchvision_shim  # noqa: F401  (before what imports torchvision)
from tests.pretrained import FOREIGN, images_of
from vtp.calibration.moments import moments
from vtp.checkpoint import load, save
from vtp.lowrank.factorise import factorise
from vtp.models import Model, initialised
from vtp.models.vit.pretrained import from_module
from vtp.params import DecomposeParams
from vtp.prune import keep_masks, masked, slim
from vtp.scores import scores, with_scores

SITES = ("attention.inner", "mlp.hidden", "attention.input", "mlp.input")


def scored(name: str, seed: int) -> Model:
    """The imported model with random scores at every site."""
    model = with_scores(from_module(FOREIGN[name].module(seed=seed)), SITES)
    with torch.no_grad():
        for score in scores(model).values():
            score.copy_(torch.randn(score.shape, generator=torch.Generator().manual_seed(seed)))
    return model


@given(name=st.sampled_from(sorted(FOREIGN)), seed=st.integers(0, 2**32 - 1), rate=st.floats(0, 0.95))
@settings(max_examples=40)
def test_masked_and_slim_agree(name: str, seed: int, rate: float) -> None:
    model = scored(name, seed)
    masks = keep_masks(scores(model), rate)
    images = images_of(model.spec)
    torch.testing.assert_close(slim(model, masks)(images), masked(model, masks)(images), rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    "name", ["timm deit, distilled", "transformers DINOv2, registers", "transformers CLIP classifier"]
)
def test_slim_and_factorised_import_goes_through_a_checkpoint(name: str, tmp_path: Path) -> None:
    model = scored(name, 3)
    model = slim(model, keep_masks(scores(model), 0.3))
    images = images_of(model.spec, 8)
    params = DecomposeParams(
        keep=0.6, budget="parameters", allocation="global", metric="loss", form="auto", correction="none"
    )
    small, _ = factorise(model, "svd", params, moments(model, images, 0))
    assert small.spec.factors
    assert any(factor.bias for layer, factor in small.spec.factors.items() if layer.endswith("query"))
    save(small, tmp_path / "model")
    loaded = load(tmp_path / "model")
    assert loaded.spec == small.spec
    assert torch.equal(loaded(images), small(images))
    assert not torch.equal(small(images), model(images))


def test_full_rank_factors_change_nothing() -> None:
    model = from_module(FOREIGN["timm vit, registers"].module())
    images = images_of(model.spec, 8)
    params = DecomposeParams(
        keep=1.0, budget="parameters", allocation="global", metric="weight", form="auto", correction="none"
    )
    same, _ = factorise(model, "svd", params, moments(model, images, 0))
    torch.testing.assert_close(same(images), model(images), rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    "name", ["timm vit, registers", "torchvision, representation", "timm vit, no class token"]
)
def test_a_spec_of_an_import_initialises_and_trains(name: str) -> None:
    spec = from_module(FOREIGN[name].module(torch.float32)).spec
    model = initialised(spec, 0, (120.0,) * 3, (60.0,) * 3).train()
    images, labels = images_of(spec, 4), torch.arange(4)
    assert not model(images).any()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    losses = []
    for _ in range(8):
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert losses[-1] < losses[0]
