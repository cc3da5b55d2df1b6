"""What keeps a training from overfitting: mixed images, averaged weights, stochastic depth, patch dropout."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from tests.models import random_model
from tests.training import RECIPE, SHARED, TRAINING, VALIDATION, Listener, tiny
from vtp.models import build
from vtp.models.vit.block import StochasticDepth
from vtp.models.vit.module import PatchDropout
from vtp.training.average import Average
from vtp.training.loop import loss_of, train
from vtp.training.mixing import mixing

MIXES = {"mixup": (0.8, 0.0), "cutmix": (0.0, 1.0)}


@pytest.mark.parametrize("kind", MIXES)
def test_mixing_blends_images_and_labels_alike(kind: str) -> None:
    """Images of one value each, equal to their label: the mean of what comes out is the mean label."""
    mixup, cutmix = MIXES[kind]
    labels = torch.arange(10)
    images = labels.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 8, 8)
    torch.manual_seed(0)
    shares = []
    for _ in range(50):
        mixed, targets = mixing(replace(SHARED, mixup=mixup, cutmix=cutmix), 10)(images, labels)
        assert mixed.dtype == torch.float32
        assert torch.allclose(targets.sum(1), torch.ones(10))
        assert ((targets > 0).sum(1) <= 2).all()
        assert torch.allclose(mixed.mean((1, 2, 3)), targets @ labels.float(), atol=1e-4)
        whole = (mixed == mixed.round()).flatten(1).all()
        assert whole or kind == "mixup"  # a pasted box leaves every pixel what it was in one of the two
        shares.append(float(targets.max()))
    assert max(shares) - min(shares) > 0.2


def test_both_kinds_of_mixing_take_turns_and_without_any_all_stays_as_it_is() -> None:
    labels = torch.arange(10)
    images = labels.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 8, 8)
    torch.manual_seed(0)
    mix = mixing(replace(SHARED, mixup=1.0, cutmix=1.0), 10)
    pasted = sum(bool((mixed == mixed.round()).all()) for mixed in (mix(images, labels)[0] for _ in range(200)))
    assert 60 < pasted < 140
    assert mixing(SHARED, 10)(images, labels) == (images, labels)


def test_targets_that_are_certain_count_as_their_labels() -> None:
    model = random_model(tiny(dropout=0.0).spec, seed=1, dtype=torch.float32)
    certain = F.one_hot(TRAINING.labels, 2).float()
    losses = [loss_of(model, TRAINING.images, t, RECIPE, None).item() for t in (TRAINING.labels, certain)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@settings(max_examples=25)
@given(st.floats(0.1, 0.999), st.lists(st.floats(-5, 5), min_size=1, max_size=20))
def test_the_average_is_that_of_all_weights_and_statistics_with_a_decay_that_rises(
    decay: float, values: list[float]
) -> None:
    model = tiny("resnet18")
    tensors = model.state_dict().values()
    for tensor in tensors:
        tensor.fill_(values[0])
    average = Average(model, decay)
    expected = values[0]
    for step, value in enumerate(values, 1):
        for tensor in tensors:
            tensor.fill_(value)
        average.update(step)
        now = min(decay, (1 + step) / (10 + step))
        expected = now * expected + (1 - now) * value
    for mean in average.model.state_dict().values():
        number = expected if mean.is_floating_point() else int(values[-1])  # the batches that a norm has seen
        assert mean.flatten().tolist() == pytest.approx([number] * mean.numel(), abs=1e-4)


def test_what_comes_back_is_the_average_where_one_is_kept(tmp_path: Path) -> None:
    recipe = replace(RECIPE, shared=replace(SHARED, ema=0.99), keep_best=False)
    smooth, _ = train(tiny(), TRAINING, VALIDATION, recipe, resume=tmp_path / "a", watcher=Listener())
    plain = replace(recipe, shared=SHARED)
    rough, _ = train(tiny(), TRAINING, VALIDATION, plain, resume=tmp_path / "b", watcher=Listener())
    start = dict(tiny().named_parameters())
    moved = [
        sum(float((p - start[name]).detach().norm()) for name, p in model.named_parameters())
        for model in (smooth, rough)
    ]
    assert 0 < moved[0] < moved[1]


def test_stochastic_depth_drops_a_branch_of_an_image_or_scales_it_and_only_while_training() -> None:
    layer = StochasticDepth(0.25).train()
    torch.manual_seed(0)
    x = torch.randn(4000, 3, 2)
    kept = layer(x)
    dropped = (kept == 0).flatten(1).all(1)
    assert torch.allclose(kept[~dropped], x[~dropped] / 0.75)
    assert dropped.double().mean() == pytest.approx(0.25, abs=0.03)
    assert torch.equal(layer.eval()(x), x)
    spec = tiny(stochastic_depth=0.5).spec
    assert [block.stochastic_depth.probability for block in build(spec).blocks] == [0.0, 0.5]  # type: ignore[union-attr]


@settings(max_examples=25)
@given(st.floats(0.1, 0.9), st.integers(0, 2), st.integers(1, 12), st.integers(0, 99))
def test_patch_dropout_leaves_other_patches_of_each_image_out_and_no_other_token(
    part: float, prefix: int, patches: int, seed: int
) -> None:
    layer = PatchDropout(part, prefix).train()
    torch.manual_seed(seed)
    x = torch.arange(40.0 * (prefix + patches)).view(40, prefix + patches, 1).expand(-1, -1, 2)
    seen = layer(x)
    stay = max(1, round(patches * (1 - part)))
    assert seen.shape == (40, prefix + stay, 2)
    assert torch.equal(seen[:, :prefix], x[:, :prefix])
    places = seen[:, prefix:, 0] - x[:, :1, 0] - prefix  # of the patches that stay, among all of an image
    assert all(len({*row}) == stay and {*row} <= {*range(patches)} for row in places.int().tolist())
    if 1 < stay < patches:
        assert len({tuple(sorted(row)) for row in places.tolist()}) > 1
    assert torch.equal(layer.eval()(x), x)


def test_the_last_epochs_see_every_patch() -> None:
    model = tiny(patch_dropout=0.5).train()
    seen = []
    for epoch in range(20):
        model.begin_epoch((epoch + 1) / 20)
        seen.append(model.embed(TRAINING.images).shape[1])
    assert seen == [3] * 18 + [5] * 2
    assert model.eval().embed(TRAINING.images).shape[1] == 5
