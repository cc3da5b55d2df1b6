"""A vision transformer of timm that has learnt scikit-learn's digits by its own forward pass, compressed."""

import copy
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.compressed import small_vit
from vtp import Report, compress, restore
from vtp.measure import divergence

TEST = 359
EPOCHS = 15
BATCH = 32


@cache
def digits() -> tuple[Tensor, Tensor]:
    """Normalised images (1797, 1, 8, 8) and labels, in an order drawn once."""
    from sklearn.datasets import load_digits

    content = load_digits()
    order = torch.randperm(len(content.target), generator=torch.Generator().manual_seed(0))
    images = torch.from_numpy(content.images).float()[:, None]
    images = (images - images[order[TEST:]].mean()) / images[order[TEST:]].std()
    return images[order], torch.from_numpy(content.target).long()[order]


@cache
def trained() -> nn.Module:
    torch.manual_seed(0)
    model = small_vit(img_size=8, patch_size=2, embed_dim=48, num_heads=4)
    images, labels = (values[TEST:] for values in digits())
    steps = len(images) // BATCH
    optimizer = torch.optim.AdamW(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=EPOCHS * steps)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(images)).split(BATCH)[:steps]:
            optimizer.zero_grad()
            F.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def images() -> Tensor:
    """Those that are compressed with, none of them for testing."""
    return digits()[0][TEST:][:512]


@cache
def compressed(keep: float, recover: int = 0) -> tuple[nn.Module, Report]:
    return compress(trained(), images(), keep=keep, batch_size=64, recover=recover)


def lost(model: nn.Module) -> float:
    """How far the predictions for test images are from those of the dense model, in nats."""
    with torch.no_grad():
        return divergence(*(each(digits()[0][:TEST]) for each in (trained(), model)))[0]


def right(model: nn.Module) -> int:
    """How many of the test images get their class."""
    images, labels = (values[:TEST] for values in digits())
    with torch.no_grad():
        return int((model(images).argmax(1) == labels).sum())


def test_half_of_the_parameters_cost_at_most_a_point_without_training() -> None:
    small, report = compressed(0.5)
    assert right(trained()) >= 0.9 * TEST
    assert right(small) >= right(trained()) - 0.01 * TEST
    assert report.agreement >= 0.99
    assert report.parameters < 0.6 * report.parameters_dense


def test_what_is_predicted_is_what_is_measured_but_for_a_small_factor() -> None:
    for keep in (0.4, 0.25, 0.15):
        report = compressed(keep)[1]
        assert report.predicted is not None
        assert 1 / 4 < report.measured / report.predicted < 4


def test_the_less_is_kept_the_further_the_model_is_from_the_dense_one() -> None:
    reports = [compressed(keep)[1] for keep in (0.4, 0.25, 0.15)]
    for more, less in pairwise(reports):
        assert more.measured < less.measured
        assert (more.predicted or 0) < (less.predicted or 0)


def test_recovery_without_labels_brings_new_images_nearer_too(tmp_path: Path) -> None:
    weights = {name: tensor.clone() for name, tensor in trained().state_dict().items()}
    small, report = compressed(0.15, recover=200)
    assert lost(small) < 0.85 * lost(compressed(0.15)[0])
    assert report.unrecovered == compressed(0.15)[1].measured
    assert report.measured < report.unrecovered
    assert f"nats, before recovery {report.unrecovered:.4f}, predicted" in str(report)
    assert all(torch.equal(tensor, trained().state_dict()[name]) for name, tensor in weights.items())
    report.save(tmp_path / "small.safetensors")
    same = restore(trained(), tmp_path / "small.safetensors")
    with torch.no_grad():
        assert torch.equal(same(images()), small(images()))


@pytest.mark.slow
def test_recovery_on_more_images_brings_new_ones_nearer() -> None:
    few, more = (
        compress(trained(), images()[:64], keep=0.1, batch_size=64, recover=300, recover_on=seen)
        for seen in (None, digits()[0][TEST:])
    )
    assert lost(more[0]) < 0.95 * lost(few[0])
    assert few[1].unrecovered == more[1].unrecovered
    assert few[1].measured < more[1].measured  # on the images that only the first was trained on


def test_recovery_that_brings_nothing_is_left_out() -> None:
    (small, report), (before, _) = compressed(0.5, recover=2), compressed(0.5)
    assert report.measured == report.unrecovered
    assert all(torch.equal(tensor, before.state_dict()[name]) for name, tensor in small.state_dict().items())


def test_recovery_takes_what_forward_takes_and_leaves_modes_and_frozen_weights_as_they_are() -> None:
    model = copy.deepcopy(trained()).train()
    model.get_submodule("patch_embed").requires_grad_(False)
    batches = [{"pixels": batch} for batch in images().split(64)]

    def forward(model: nn.Module, batch: dict[str, Any]) -> Any:
        return model(batch["pixels"])

    small, report = compress(model, batches, keep=0.15, forward=forward, recover=20)
    assert report.unrecovered is not None
    assert report.measured < report.unrecovered == pytest.approx(compressed(0.15)[1].measured)
    assert all(module.training for each in (small, model) for module in each.modules())
    frozen = [name for name, weight in small.named_parameters() if not weight.requires_grad]
    assert frozen
    assert all(name.startswith("patch_embed") for name in frozen)
