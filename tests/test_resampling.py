"""Models for images and patches of another size."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from tests.models import random_images, random_model, small_spec, with_factors
from tests.params import VIT, complaint, parse
from vtp.checkpoint import save
from vtp.data.dataset import Resizing
from vtp.errors import UserError
from vtp.models import Facts, Model, start
from vtp.models.vit.module import filled
from vtp.models.vit.resampling import resampled, resampled_embedding
from vtp.models.vit.spec import HeadSpec, Resize, ViTSpec

SPEC = cast(ViTSpec, small_spec("vit"))
sizes = st.integers(1, 6)


def resize_patches(images_BCHW: Tensor, old: int, new: int) -> Tensor:
    """Each patch of `old` pixels resized by itself to `new`, bilinearly, at its place: (B, C, H', W')."""
    patches = F.unfold(images_BCHW, old, stride=old).mT.reshape(-1, 1, old, old)
    resized = F.interpolate(patches, (new, new), mode="bilinear", antialias=True)
    count, channels, height, _ = images_BCHW.shape
    columns = resized.reshape(count, -1, channels * new**2).mT
    return F.fold(columns, height // old * new, new, stride=new)


@given(old=sizes, larger=st.integers(0, 4), seed=st.integers(0, 99))
def test_logits_of_larger_patches_are_those_of_the_patches_before_they_were_resized(
    old: int, larger: int, seed: int
) -> None:
    new = old + larger
    model = random_model(replace(SPEC, patch_size=old, image_size=2 * old), seed)
    other = filled(*resampled(cast(ViTSpec, model.spec), model.state_dict(), 2 * new, new))
    images = random_images(model.spec).double()
    torch.testing.assert_close(other(resize_patches(images, old, new)), model(images), rtol=1e-9, atol=1e-9)


@given(old=sizes, smaller=st.integers(0, 5), seed=st.integers(0, 99))
def test_what_smaller_patches_cannot_say_of_larger_ones_is_left_out_in_the_least_squares(
    old: int, smaller: int, seed: int
) -> None:
    new = max(1, old - smaller)
    weight = torch.randn(4, 3 * old**2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    pixels = torch.eye(3 * old**2, dtype=torch.float64).reshape(-1, 3, old, old)
    large, small = (as_rows(patches) for patches in (pixels, resize_patches(pixels, old, new)))
    error = small @ resampled_embedding(weight, old, new).T - large @ weight.T
    torch.testing.assert_close(small.T @ error, torch.zeros(3 * new**2, 4).double(), rtol=0, atol=1e-9)


def as_rows(patches_BCHW: Tensor) -> Tensor:
    """Pixels by row, column and channel."""
    return patches_BCHW.permute(0, 2, 3, 1).flatten(1)


@given(old=st.integers(2, 6), new=sizes, seed=st.integers(0, 99))
def test_positions_are_those_of_a_turned_image_when_it_is_turned(old: int, new: int, seed: int) -> None:
    """Rows are not columns, neither is mirrored, and the prefix tokens stay."""
    spec = replace(SPEC, patch_size=1, image_size=old, prefix_tokens=2)
    state = random_model(spec, seed).state_dict()
    turned = state | {"positions": turn(state["positions"], old)}
    found = resampled(spec, state, new, 1)[1]["positions"]
    torch.testing.assert_close(resampled(spec, turned, new, 1)[1]["positions"], turn(found, new))
    assert torch.equal(found[:2], state["positions"][:2])
    rows = torch.arange(float(old)).repeat_interleave(old)[:, None].expand(-1, spec.dim)
    state["positions"] = torch.cat([torch.zeros(2, spec.dim), rows])
    grid = resampled(spec, state, new, 1)[1]["positions"][2:].unflatten(0, (new, new))
    torch.testing.assert_close(grid, grid[:, :1].expand(-1, new, -1))
    assert (grid.diff(dim=0) > 0).all()


def turn(positions: Tensor, side: int) -> Tensor:
    """Positions of two prefix tokens and an image, the image turned by a right angle."""
    grid = positions[2:].unflatten(0, (side, side)).rot90()
    return torch.cat([positions[:2], grid.flatten(0, 1)])


def test_a_model_of_the_same_sizes_is_the_same() -> None:
    model = random_model(SPEC, 0)
    spec, state = resampled(SPEC, model.state_dict(), SPEC.image_size, SPEC.patch_size)
    assert spec == SPEC
    torch.testing.assert_close(state, model.state_dict())


def test_the_part_of_an_image_that_is_seen_stays() -> None:
    spec = replace(SPEC, resize=Resize(10, False, "bicubic"))
    assert resampled(spec, random_model(spec, 0).state_dict(), 16, 4)[0].resize == Resize(20, False, "bicubic")


CONTENT: dict[str, Any] = VIT | {
    "model": {
        "name": "pretrained",
        "source": "vtp/dense.safetensors",
        "weights": None,
        "patch_size": None,
        "patch_dropout": 0.25,
    }
}
FACTS = Facts(
    image_size=8,
    channels=3,
    classes=4,
    mean=(0.0,),
    std=(1.0,),
    resize=0,
    squash=True,
    interpolation="bilinear",
)


def begun(folder: Path, facts: Facts = FACTS, **model: Any) -> Model:
    """The first model of a run with other values in the section `model`."""
    return start(parse(CONTENT | {"model": CONTENT["model"] | model}).model, facts, 0, folder)


def test_a_run_begins_with_a_checkpoint_resampled_and_says_so(tmp_path: Path, capsys: Any) -> None:
    model = random_model(SPEC, 0, torch.float32)
    save(model, tmp_path / "dense.safetensors")
    images = random_images(SPEC)
    found = begun(tmp_path)
    assert torch.equal(found(images), model(images))
    assert found.spec == replace(SPEC, patch_dropout=0.25, resize=Resize(8, True, "bilinear"))
    assert capsys.readouterr().out == ""
    smaller = begun(tmp_path, replace(FACTS, image_size=16), patch_size=2)
    spec, state = resampled(SPEC, model.state_dict(), 16, 2)
    assert smaller.spec == replace(spec, patch_dropout=0.25, resize=Resize(16, True, "bilinear"))
    torch.testing.assert_close(smaller.state_dict(), state, rtol=0, atol=0)
    assert capsys.readouterr().out == (
        "vtp/dense.safetensors: resampled from patches of 4 pixels in images of 8 to patches of 2 pixels in "
        "images of 16, for which baseline.epochs train it\n"
    )


def test_a_checkpoint_for_other_classes_gets_a_head_of_zeros(tmp_path: Path) -> None:
    save(random_model(replace(SPEC, representation=5), 0, torch.float32), tmp_path / "dense.safetensors")
    model = begun(tmp_path, replace(FACTS, classes=7))
    assert model(random_images(SPEC)).tolist() == torch.zeros(8, 7).tolist()


@pytest.mark.parametrize(
    ("spec", "facts", "sentence"),
    [
        (small_spec("resnet18"), FACTS, "a resnet18, but must be a vision transformer"),
        (with_factors(SPEC, 2), FACTS, "a model with factors, but must be dense, as baseline writes it"),
        (
            replace(SPEC, blocks=(replace(SPEC.blocks[0], heads=(HeadSpec(4, 6),)), *SPEC.blocks[1:])),
            FACTS,
            "a model whose heads have lost dims, but must be dense, as baseline writes it",
        ),
        (
            replace(SPEC, scored=("mlp.hidden",)),
            FACTS,
            "a model with importance scores, but must be dense, as baseline writes it",
        ),
        (
            SPEC,
            replace(FACTS, image_size=16),
            "data.image_size: 16, but vtp/dense.safetensors was trained on images with data.image_size: 8; "
            "model.patch_size, in pixels, resamples it for images of another size",
        ),
    ],
)
def test_what_no_run_can_begin_with(spec: Any, facts: Facts, sentence: str, tmp_path: Path) -> None:
    save(random_model(spec, 0, torch.float32), tmp_path / "dense.safetensors")
    with pytest.raises(UserError) as caught:
        begun(tmp_path, facts)
    assert str(caught.value).endswith(sentence)


def test_a_run_needs_images_made_as_those_of_its_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "dense.safetensors"
    save(random_model(SPEC, 0, torch.float32), path, resizing=Resizing(8, 10, False, "bicubic"))
    wanted = "data.resize: 10, data.squash: false, data.interpolation: bicubic"
    with pytest.raises(UserError) as caught:
        begun(tmp_path)
    assert str(caught.value) == (
        "params.yaml: data.resize: 0, data.squash: true, data.interpolation: bilinear, but vtp/dense.safetensors "
        f"was trained on images with {wanted}"
    )
    begun(tmp_path, replace(FACTS, resize=10, squash=False, interpolation="bicubic"))


@pytest.mark.parametrize(
    ("key", "model"),
    [
        ("model.source", {"source": "vtp/~nobody-of-that-name/x"}),
        ("model.weights", {"source": "timm/deit_tiny_patch16_224", "weights": "~nobody-of-that-name/x"}),
    ],
)
def test_a_path_of_a_user_that_is_not_there_is_a_sentence(key: str, model: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        begun(tmp_path, **model)
    assert str(caught.value) == f"params.yaml: {key} names '~nobody-of-that-name/x', but there is no such user"


def test_values_that_do_not_go_together() -> None:
    assert complaint(CONTENT | {"model": CONTENT["model"] | {"weights": "w.pth"}}) == (
        "params.yaml: model.weights is 'w.pth', but must be empty where model.source is a checkpoint, which has "
        "weights"
    )
    assert complaint(CONTENT | {"model": CONTENT["model"] | {"patch_size": 3}}) == (
        "params.yaml: model.patch_size is 3, but must divide data.image_size, which is 8"
    )
