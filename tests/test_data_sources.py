"""The source `digits`, and what all sources share."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from tests.conftest import ROOT
from tests.params import VIT, parse
from vtp.data.dataset import Split, save_dataset
from vtp.data.sources import fetch
from vtp.data.sources.common import split_off
from vtp.errors import UserError
from vtp.params import DataParams

DIGITS = DataParams(
    name="digits",
    path=None,
    sha256=None,
    image_size=8,
    resize=0,
    squash=True,
    interpolation="bilinear",
    validation_fraction=0.1,
)


def rows(split: Split) -> list[bytes]:
    return [image.numpy().tobytes() for image in split.images]


def printed(program: str) -> str:
    """What a Python process of its own prints."""
    command = [sys.executable, "-c", program]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def test_a_line_in_the_registry_makes_a_source_known_to_params() -> None:
    program = """
from pathlib import Path
from vtp.data.sources import SOURCES, fetch
SOURCES["noise"] = lambda params, seed, root: f"{params.name} {seed} {root}"
from tests.params import VIT, parse
print(fetch(parse(VIT | {"data": VIT["data"] | {"name": "noise"}}).data, 3, Path("here")))
"""
    assert printed(program) == "noise 3 here"


def test_another_name_is_answered_with_the_sources() -> None:
    with pytest.raises(UserError, match=r"data\.name is 'mnist', but must be one of digits, cifar10, cifar100, "):
        parse(VIT | {"data": VIT["data"] | {"name": "mnist"}})


def test_torchvision_and_sklearn_are_imported_only_where_used() -> None:
    check = "import sys, vtp.params; print([name for name in ('torchvision', 'sklearn') if name in sys.modules])"
    assert printed(check) == "[]"


class TestSplitOff:
    def test_stratified_disjoint_and_by_seed(self) -> None:
        labels = torch.tensor([0] * 100 + [1] * 30 + [2] * 2 + [3])
        split = Split(torch.arange(len(labels)).view(-1, 1, 1, 1), labels)
        rest, part = split_off(split, 0.1, seed=0)
        assert part.labels.bincount(minlength=4).tolist() == [10, 3, 1, 0]
        numbers = [kept.images.flatten().tolist() for kept in (rest, part)]
        assert sorted(numbers[0] + numbers[1]) == list(range(len(labels)))
        assert numbers == [sorted(kept) for kept in numbers]
        assert torch.equal(split_off(split, 0.1, seed=0)[1].images, part.images)
        assert not torch.equal(split_off(split, 0.1, seed=1)[1].images, part.images)


class TestDigits:
    def test_pixels_and_splits(self, tmp_path: Path) -> None:
        dataset = fetch(DIGITS, 0, tmp_path)
        splits = (dataset.train, dataset.validation, dataset.test)
        assert [len(split) for split in splits] == [1295, 143, 359]
        assert dataset.class_names == tuple("0123456789")
        assert dataset.train.images.shape[1:] == (1, 8, 8)
        assert dataset.train.images.dtype == torch.uint8
        original = np.rint(load_digits().images * 255 / 16).astype(np.uint8)
        found = [row for split in splits for row in rows(split)]
        assert sorted(found) == sorted(image.tobytes() for image in original)
        assert not list(tmp_path.iterdir())

    def test_splits_are_stratified(self, tmp_path: Path) -> None:
        dataset = fetch(DIGITS, 0, tmp_path)
        for split, expected in ((dataset.test, 36), (dataset.validation, 14.4)):
            assert all(abs(count - expected) <= 1 for count in split.labels.bincount().tolist())

    def test_seed_draws_validation_but_not_test(self, tmp_path: Path) -> None:
        one, two = fetch(DIGITS, 1, tmp_path), fetch(DIGITS, 2, tmp_path)
        assert rows(one.test) == rows(two.test)
        assert rows(one.validation) != rows(two.validation)

    def test_same_seed_gives_the_same_bytes(self, tmp_path: Path) -> None:
        for name in ("a", "b"):
            save_dataset(fetch(DIGITS, 3, tmp_path), tmp_path / name)
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()

    def test_resized(self, tmp_path: Path) -> None:
        dataset = fetch(replace(DIGITS, image_size=12), 0, tmp_path)
        assert dataset.test.images.shape == (359, 1, 12, 12)
        assert dataset.test.images.dtype == torch.uint8

    @pytest.mark.parametrize(("key", "value"), [("path", "x.zip"), ("sha256", "0" * 64)])
    def test_reads_no_file(self, tmp_path: Path, key: str, value: str) -> None:
        with pytest.raises(UserError, match=f"data.{key} is '{value}', but must be null"):
            fetch(replace(DIGITS, **{key: value}), 0, tmp_path)
