"""The data set as a file, and batches of it."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch.nn import functional

from tests.trained import PARAMS
from tests.training import SHARED
from vtp.data.augment import augmentation, crop_and_flip
from vtp.data.batches import batches, normalisation
from vtp.data.dataset import SPLITS, Dataset, Resizing, Split, load_dataset, save_dataset
from vtp.data.sources.common import resized
from vtp.errors import UserError
from vtp.params import TrainingParams


def make_split(count: int, channels: int = 3, size: int = 8, seed: int = 0) -> Split:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, channels, size, size), generator=generator, dtype=torch.uint8)
    return Split(images, torch.randint(0, 3, (count,), generator=generator))


@pytest.fixture
def dataset() -> Dataset:
    return Dataset(make_split(20, seed=1), make_split(5, seed=2), make_split(7, seed=3), ("a", "b", "ç"))


class TestFile:
    def test_round_trip(self, dataset: Dataset, tmp_path: Path) -> None:
        save_dataset(dataset, tmp_path / "d.safetensors")
        loaded = load_dataset(tmp_path / "d.safetensors")
        assert loaded.class_names == dataset.class_names
        for name in SPLITS:
            before, after = getattr(dataset, name), getattr(loaded, name)
            assert after.images.dtype == torch.uint8
            assert after.labels.dtype == torch.int64
            assert torch.equal(after.images, before.images)
            assert torch.equal(after.labels, before.labels)

    def test_equal_data_give_equal_bytes(self, dataset: Dataset, tmp_path: Path) -> None:
        save_dataset(dataset, tmp_path / "a")
        save_dataset(load_dataset(tmp_path / "a"), tmp_path / "b")
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
        with safe_open(tmp_path / "a", framework="pt") as file:
            assert list(file.metadata()) == ["dataset"]

    def test_how_images_came_to_their_size_is_kept_and_the_default_changes_no_byte(
        self, dataset: Dataset, tmp_path: Path
    ) -> None:
        save_dataset(dataset, tmp_path / "unsaid")
        save_dataset(replace(dataset, resizing=Resizing(8)), tmp_path / "default")
        assert (tmp_path / "default").read_bytes() == (tmp_path / "unsaid").read_bytes()
        assert load_dataset(tmp_path / "unsaid").resizing == Resizing(8, 0, True, "bilinear")
        cropped = Resizing(8, 10, False, "bicubic")
        save_dataset(replace(dataset, resizing=cropped), tmp_path / "cropped")
        assert load_dataset(tmp_path / "cropped").resizing == cropped

    def test_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"d.safetensors: no such file"):
            load_dataset(tmp_path / "d.safetensors")

    @pytest.mark.parametrize("kept", [0, 7, 100, -1])
    def test_truncated_file(self, dataset: Dataset, tmp_path: Path, kept: int) -> None:
        path = tmp_path / "d.safetensors"
        save_dataset(dataset, path)
        path.write_bytes(path.read_bytes()[:kept])
        with pytest.raises(UserError, match=r"d.safetensors: truncated, altered or no dataset file"):
            load_dataset(path)

    @pytest.mark.parametrize("metadata", [None, {"spec": "{}"}, {"dataset": "[]"}, {"dataset": "{"}])
    def test_foreign_file(self, tmp_path: Path, metadata: dict[str, str] | None) -> None:
        save_file({"weight": torch.zeros(3)}, tmp_path / "foreign.safetensors", metadata=metadata)
        with pytest.raises(UserError, match=r"foreign.safetensors: truncated, altered or no dataset file"):
            load_dataset(tmp_path / "foreign.safetensors")


def test_moves_between_devices(dataset: Dataset) -> None:
    moved = dataset.to("meta")
    assert moved.class_names == dataset.class_names
    for name in SPLITS:
        split = getattr(moved, name)
        assert split.images.device.type == split.labels.device.type == "meta"
        assert len(split) == len(getattr(dataset, name))


def test_digest_tells_data_sets_apart(dataset: Dataset) -> None:
    assert dataset.channels == 3
    before = dataset.digest()
    assert replace(dataset, class_names=("a", "b", "c")).digest() != before
    assert replace(dataset, train=dataset.validation, validation=dataset.train).digest() != before
    dataset.test.labels[-1] += 1
    assert dataset.digest() != before


class TestNormalisation:
    def test_equals_the_plain_form(self) -> None:
        split = make_split(50)
        mean, deviation = normalisation(split)
        plain = split.images.double().transpose(0, 1).flatten(1)
        assert mean == pytest.approx(plain.mean(1).tolist())
        assert deviation == pytest.approx(plain.std(1, unbiased=False).tolist())

    def test_constant_channel_can_be_divided_by(self) -> None:
        split = make_split(5)
        split.images[:, 1] = 200
        mean, deviation = normalisation(split)
        assert mean[1] == 200.0
        assert deviation[1] == 1.0


@st.composite
def image_batches(draw: st.DrawFn) -> torch.Tensor:
    shape = tuple(draw(st.integers(1, high)) for high in (4, 3, 7, 7))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


class TestCropAndFlip:
    @given(images=image_batches(), padding=st.integers(0, 3), flip=st.booleans(), seed=st.integers(0, 99))
    def test_each_result_is_a_crop_of_its_padded_image(
        self, images: torch.Tensor, padding: int, flip: bool, seed: int
    ) -> None:
        before = images.clone()
        results = crop_and_flip(images, torch.Generator().manual_seed(seed), padding, flip)
        assert torch.equal(images, before)
        assert results.dtype == torch.uint8
        assert results.shape == images.shape
        height, width = images.shape[-2:]
        shifts = list(product(range(2 * padding + 1), repeat=2))
        for padded, result in zip(functional.pad(images, (padding,) * 4), results, strict=True):
            crops = [padded[:, y : y + height, x : x + width] for y, x in shifts]
            crops += [crop.flip(-1) for crop in crops] if flip else []
            assert any(torch.equal(result, crop) for crop in crops)

    @given(images=image_batches(), seed=st.integers(0, 99))
    def test_no_padding_and_no_flip_is_the_identity(self, images: torch.Tensor, seed: int) -> None:
        assert torch.equal(crop_and_flip(images, torch.Generator().manual_seed(seed), 0, False), images)

    def test_every_shift_and_both_directions_occur(self) -> None:
        image = make_split(1, size=5).images
        images = image.expand(2000, -1, -1, -1)
        results = crop_and_flip(images, torch.Generator().manual_seed(0), 1, True)
        _, counts = results.flatten(1).unique(dim=0, return_counts=True)
        assert len(counts) == 18
        assert counts.min() > 2000 / 18 / 2
        assert counts.max() < 2000 / 18 * 2


FLIP = augmentation(replace(SHARED, crop_padding=0, flip=True))


class TestWhatIsDrawnForEachImage:
    def test_trivial_augment_changes_each_image_by_itself_and_leaves_the_generator_of_others_alone(self) -> None:
        images = make_split(1, size=8).images.expand(200, -1, -1, -1)
        augment = augmentation(replace(SHARED, crop_padding=0, trivial_augment=1.0))
        torch.manual_seed(3)
        expected = torch.rand(4)
        torch.manual_seed(3)
        results = augment(images, torch.Generator().manual_seed(0))
        assert torch.equal(torch.rand(4), expected)
        assert results.dtype == torch.uint8
        assert results.shape == images.shape
        assert len(results.flatten(1).unique(dim=0)) > 50  # 14 kinds of change, each of up to 31 strengths
        other = augment(images, torch.Generator().manual_seed(1))
        assert not torch.equal(results, other)

    @pytest.mark.parametrize("probability", [0.3, 1.0])
    def test_trivial_augment_changes_so_many_images(self, probability: float) -> None:
        images = make_split(1, size=8).images.expand(400, -1, -1, -1)
        augment = augmentation(replace(SHARED, crop_padding=0, trivial_augment=probability))
        results = augment(images, torch.Generator().manual_seed(0))
        changed = (results != images).flatten(1).any(1).double().mean()
        assert 0.7 * probability < changed < probability + 0.08  # one of the 14 kinds of change is none

    @pytest.mark.parametrize("probability", [0.3, 1.0])
    def test_erasing_blackens_one_box_of_so_many_images(self, probability: float) -> None:
        images = torch.full((400, 3, 16, 16), 200, dtype=torch.uint8)
        augment = augmentation(replace(SHARED, crop_padding=0, erasing=probability))
        black = augment(images, torch.Generator().manual_seed(0)) == 0
        assert torch.equal(black.any(1), black.all(1))  # in all channels
        black = black.all(1)
        for box in black[black.flatten(1).any(1)]:
            rows, columns = (box.any(axis).nonzero().flatten() for axis in (1, 0))
            assert int(box.sum()) == len(rows) * len(columns)
            for side in (rows, columns):  # an interval
                assert int(side[-1] - side[0]) + 1 == len(side)
        share = black.flatten(1).any(1).double().mean()
        assert share == pytest.approx(probability, abs=0.08)


def all_of(*arguments: object) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = zip(*batches(*arguments), strict=True)  # type: ignore[arg-type]
    return torch.cat(images), torch.cat(labels)


class TestBatches:
    @given(count=st.integers(1, 40), batch_size=st.integers(1, 50), epoch=st.integers(0, 5))
    @settings(max_examples=40)
    def test_every_image_once_with_its_label(self, count: int, batch_size: int, epoch: int) -> None:
        images = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
        split = Split(images, torch.arange(count) * 10)
        sizes = [len(labels) for _, labels in batches(split, batch_size, 0, epoch, FLIP)]
        assert sizes[:-1] == [batch_size] * (len(sizes) - 1)
        assert sum(sizes) == count
        assert sizes[-1] > 1 or batch_size == 1 or count == 1
        seen, labels = all_of(split, batch_size, 0, epoch, FLIP)
        assert labels.tolist() == (seen[:, 0, 0, 0].long() * 10).tolist()
        assert sorted(labels.tolist()) == split.labels.tolist()

    @pytest.mark.parametrize("augmented", [SHARED, replace(SHARED, trivial_augment=0.5, erasing=0.5)])
    def test_a_function_of_seed_and_epoch(self, augmented: TrainingParams) -> None:
        split, augment = make_split(30), augmentation(augmented)
        first = all_of(split, 8, 5, 2, augment)
        torch.manual_seed(99)  # the global generator plays no part
        again = all_of(split, 8, 5, 2, augment)
        assert torch.equal(first[0], again[0])
        assert torch.equal(first[1], again[1])
        for seed, epoch in ((5, 3), (6, 2), (2, 5)):
            other = all_of(split, 8, seed, epoch, augment)
            assert not torch.equal(first[0], other[0])


def test_what_is_made_smaller_is_the_mean_of_what_it_was() -> None:
    images = torch.randint(0, 256, (4, 1, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    small = resized(images, PARAMS.data).double()
    means = images.double().unflatten(3, (8, 8)).unflatten(2, (8, 8)).mean((3, 5))
    assert small.std() < 1.5 * means.std()  # and not a few of its pixels, which vary eight times as much
