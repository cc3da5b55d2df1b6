"""The sources `cifar10` and `cifar100`, of archives in their official form."""

import hashlib
import io
import pickle
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

from tests.test_data_sources import DIGITS, rows
from vtp.data.dataset import Dataset
from vtp.data.sources import fetch
from vtp.data.sources.torchvision_shim import datasets
from vtp.errors import UserError

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
