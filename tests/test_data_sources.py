"""The sources `digits`, `cifar10` and `cifar100`, and what all sources share."""

import hashlib
import io
import pickle
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from tests.conftest import ROOT
from tests.params import VIT, parse
from vtp.data.dataset import Dataset, Split, save_dataset
from vtp.data.sources import fetch
from vtp.data.sources.common import split_off
from vtp.data.sources.torchvision_shim import datasets
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


CLASSES = ["cat", "dog", "frog"]
PER_CLASS = {"train": 10, "test": 2}


def pickled(content: dict[str, Any]) -> bytes:
    """Pickle as the official archive is: its dtypes carry numbers where NumPy expects booleans today."""
    return pickle.dumps(content, protocol=2).replace(b"\x89\x88\x87R", b"K\x00K\x01\x87R")


def batch(folder: str, labels_key: str) -> dict[str, Any]:
    labels = np.tile(np.arange(len(CLASSES)), PER_CLASS[folder])
    generator = np.random.default_rng(len(labels))
    data = generator.integers(0, 256, (len(labels), 3072), dtype=np.uint8)
    return {"data": data, labels_key: labels.tolist()}


def write_archive(path: Path, source: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write an archive in the official form, and let torchvision take it for the official one."""
    labels_key = "labels" if source is datasets.CIFAR10 else "fine_labels"
    members = {
        "train_list": ("data_batch_1", pickled(batch("train", labels_key))),
        "test_list": ("test_batch", pickled(batch("test", labels_key))),
        "meta": ("meta", pickled({source.meta["key"]: CLASSES})),
    }
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.values():
            member = tarfile.TarInfo(f"{source.base_folder}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    md5 = {key: [name, hashlib.md5(content).hexdigest()] for key, (name, content) in members.items()}
    monkeypatch.setattr(source, "train_list", [md5["train_list"]])
    monkeypatch.setattr(source, "test_list", [md5["test_list"]])
    meta = {"filename": "meta", "key": source.meta["key"], "md5": md5["meta"][1]}
    monkeypatch.setattr(source, "meta", meta)
    monkeypatch.setattr(source, "tgz_md5", hashlib.md5(path.read_bytes()).hexdigest())


def check_cifar(dataset: Dataset, labels_key: str) -> None:
    assert dataset.class_names == tuple(CLASSES)
    assert dataset.validation.labels.bincount().tolist() == [2, 2, 2]
    test = batch("test", labels_key)
    assert torch.equal(dataset.test.images, torch.from_numpy(test["data"]).view(-1, 3, 32, 32))
    assert dataset.test.labels.tolist() == test[labels_key]
    train = batch("train", labels_key)
    expected = zip([row.tobytes() for row in train["data"]], train[labels_key], strict=True)
    found = [
        pair
        for split in (dataset.train, dataset.validation)
        for pair in zip(rows(split), split.labels.tolist(), strict=True)
    ]
    assert sorted(found) == sorted(expected)


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        """Leave stderr to what is tested."""


class QuietServer(ThreadingHTTPServer):
    def handle_error(self, *arguments: object) -> None:
        """The client leaves early when all it wants to know is where a redirection ends."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """Serve the files of `tmp_path` and yield the address."""
    handler = partial(QuietHandler, directory=tmp_path)
    with QuietServer(("127.0.0.1", 0), handler) as running:
        Thread(target=running.serve_forever, args=[0.02]).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


class TestCifar:
    params = replace(DIGITS, name="cifar10", path="copy.tar.gz", image_size=32, validation_fraction=0.2)

    @pytest.mark.parametrize(("name", "key"), [("cifar10", "labels"), ("cifar100", "fine_labels")])
    def test_local_copy(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, key: str) -> None:
        write_archive(tmp_path / "copy.tar.gz", getattr(datasets, name.upper()), monkeypatch)
        digest = hashlib.sha256((tmp_path / "copy.tar.gz").read_bytes()).hexdigest()
        check_cifar(fetch(replace(self.params, name=name, sha256=digest), 0, tmp_path), key)
        assert [path.name for path in tmp_path.iterdir()] == ["copy.tar.gz"]

    def test_resized(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write_archive(tmp_path / "copy.tar.gz", datasets.CIFAR10, monkeypatch)
        assert fetch(replace(self.params, image_size=16), 0, tmp_path).test.images.shape == (6, 3, 16, 16)

    def test_downloaded_once(
        self,
        tmp_path: Path,
        server: str,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        write_archive(tmp_path / "official", datasets.CIFAR10, monkeypatch)
        monkeypatch.setattr(datasets.CIFAR10, "url", f"{server}/official")
        check_cifar(fetch(replace(self.params, path=None), 0, tmp_path), "labels")
        kept = list((tmp_path / ".vtp/downloads").iterdir())
        assert [path.name for path in kept] == ["cifar-10-python.tar.gz"]
        assert kept[0].read_bytes() == (tmp_path / "official").read_bytes()
        (tmp_path / "official").unlink()
        check_cifar(fetch(replace(self.params, path=None), 0, tmp_path), "labels")
        assert capsys.readouterr().err == ""

    def test_unreachable(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def unreachable(*arguments: object) -> None:
            raise URLError("no route to host")

        monkeypatch.setattr(datasets.utils, "download_url", unreachable)
        with pytest.raises(UserError, match=r"cifar-100-python.tar.gz: cannot be downloaded .*data\.path"):
            fetch(replace(self.params, name="cifar100", path=None), 0, tmp_path)
        assert not list((tmp_path / ".vtp/downloads").iterdir())

    def test_broken_download_is_not_kept(
        self, tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "page.html").write_text("you are not logged in")
        monkeypatch.setattr(datasets.CIFAR10, "url", f"{server}/page.html")
        with pytest.raises(UserError, match=r"cannot be downloaded .*data\.path"):
            fetch(replace(self.params, path=None), 0, tmp_path)
        assert not list((tmp_path / ".vtp/downloads").iterdir())

    def test_truncated_copy(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "copy.tar.gz"
        write_archive(path, datasets.CIFAR10, monkeypatch)
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(UserError, match=r"copy.tar.gz: its md5 is .* allowed is a copy of https"):
            fetch(self.params, 0, tmp_path)

    def test_wrong_sha256(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write_archive(tmp_path / "copy.tar.gz", datasets.CIFAR10, monkeypatch)
        with pytest.raises(UserError, match=r"copy.tar.gz: its sha256 is .*, but data.sha256"):
            fetch(replace(self.params, sha256="0" * 64), 0, tmp_path)

    def test_missing_copy(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"data.path is 'copy.tar.gz', but .* does not exist"):
            fetch(self.params, 0, tmp_path)

    def test_directory_instead_of_the_archive(self, tmp_path: Path) -> None:
        (tmp_path / "copy.tar.gz").mkdir()
        with pytest.raises(UserError, match=r"copy.tar.gz: not a file"):
            fetch(self.params, 0, tmp_path)
