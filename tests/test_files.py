"""Files that are written whole or not at all, JSON, and telling whether files have changed."""

import math
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import ROOT
from vtp.errors import UserError
from vtp.files import existing, read_json, replacing, users_file, walk, write_json, write_text
from vtp.fingerprint import fingerprint
from vtp.sealed import read_content, write_sealed

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


class Interrupted(BaseException):
    """As KeyboardInterrupt, no Exception."""


@pytest.mark.parametrize("kind", [ValueError, Interrupted, KeyboardInterrupt])
@pytest.mark.parametrize("before", [None, b"old"])
def test_a_file_is_replaced_whole_or_not_at_all(
    kind: type[BaseException], before: bytes | None, tmp_path: Path
) -> None:
    path = tmp_path / "file.bin"
    if before is not None:
        path.write_bytes(before)

    def write_half() -> None:
        with replacing(path) as temporary:
            assert temporary.parent == path.parent  # so that the renaming is atomic
            temporary.write_bytes(b"half of the n")
            raise kind

    with pytest.raises(kind):
        write_half()
    assert [(found.name, found.read_bytes()) for found in tmp_path.iterdir()] == (
        [] if before is None else [("file.bin", before)]
    )


@pytest.mark.parametrize(
    ("at", "words"), [("/dev/null/x.txt", "File exists"), ("/proc/x.txt", "No such file or directory")]
)
def test_a_file_that_cannot_be_written_is_named(at: str, words: str) -> None:
    with pytest.raises(UserError, match=rf"^{at}: cannot be written \({words}\)$"):
        write_text(Path(at), "text")


def test_a_full_disk_is_told_of_and_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    write_sealed(path, "kind", "old", {})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(UserError, match=rf"^{path}: cannot be written \(.*File too large"):
            write_sealed(path, "kind", "new", {"a": torch.zeros(1000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == [path]
    assert read_content(path, "kind") == "old"


def test_the_old_content_stands_until_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file.txt"
    write_text(path, "old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o644


def test_text_is_utf_8(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "ηλπ\n")
    assert (tmp_path / "file").read_bytes() == "ηλπ\n".encode()


def test_json_is_utf_8_that_people_can_read(tmp_path: Path) -> None:
    write_json(tmp_path / "file", {"♥": "käfer"})
    assert (tmp_path / "file").read_text(encoding="utf-8") == '{\n  "♥": "käfer"\n}\n'


@settings(max_examples=50)
@given(value=PLAIN)
def test_json_comes_back_as_it_was_and_equal_values_give_equal_bytes(
    tmp_path_factory: pytest.TempPathFactory, value: Any
) -> None:
    folder = tmp_path_factory.getbasetemp()
    write_json(folder / "first.json", value)
    read = read_json(folder / "first.json")
    assert read == value
    assert repr(read) == repr(value)  # 1 and 1.0 and True, and every bit of a float
    write_json(folder / "second.json", read)
    assert (folder / "first.json").read_bytes() == (folder / "second.json").read_bytes()


@pytest.mark.parametrize("content", [b"", b"{", b'{"a": 1', b"{'a': 1}", b"\xff\xfe{}", b"\0\0"])
def test_a_file_that_is_no_json_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"^{re.escape(str(path))}: not a JSON file") as caught:
        read_json(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.json", tmp_path):  # a folder is no file
        for read in (read_json, existing):
            with pytest.raises(UserError, match=f"^{re.escape(str(path))}: no such file"):
                read(path)
    write_json(tmp_path / "there.json", math.pi)
    assert existing(tmp_path / "there.json") == tmp_path / "there.json"


def test_a_users_path_begins_at_the_repository_or_at_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    for path, whole in {"a/b": "/root/a/b", "../b": "/root/../b", "/a": "/a", "~/a": "/home/me/a"}.items():
        assert users_file("data.path", path, Path("/root")) == Path(whole)


def test_a_walk_follows_links_but_in_no_circle(tmp_path: Path) -> None:
    for name in ("top/b/file", "top/a/file", "other/file"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "top/b/other").symlink_to(tmp_path / "other")
    (tmp_path / "top/a/other").symlink_to(tmp_path / "other")
    (tmp_path / "top/a/itself").symlink_to(tmp_path / "top/a")
    (tmp_path / "other/back").symlink_to(tmp_path)  # from there `top` and `other` would be entered again
    found = [
        str(Path(folder, name).relative_to(tmp_path))
        for folder, _, names in walk(tmp_path / "top")
        for name in names
    ]
    assert found == ["top/a/file", "top/a/other/file", "top/b/file", "top/b/other/file"]


class TestFingerprint:
    @pytest.fixture
    def images(self, tmp_path: Path) -> Path:
        for name in ("train/cat/0.png", "train/cat/1.png", "test/dog/0.png"):
            (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "images" / name).write_bytes(name.encode())
        return tmp_path / "images"

    def test_nothing_has_none(self, tmp_path: Path) -> None:
        assert fingerprint(tmp_path / "missing") is None

    def test_it_sees_an_edit_in_place_a_new_name_and_a_missing_file(self, images: Path) -> None:
        found = [fingerprint(images)]
        file = images / "train/cat/0.png"
        status = file.stat()
        file.write_bytes(b"longer than it was before")
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
        found.append(fingerprint(images))  # by its size
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
        found.append(fingerprint(images))  # by its time
        file.rename(images / "train/cat/2.png")
        found.append(fingerprint(images))
        (images / "train/cat/2.png").unlink()
        found.append(fingerprint(images))
        assert len(set(found)) == len(found)
        assert fingerprint(images) == found[-1]

    def test_it_is_of_what_is_there_and_not_of_where(self, images: Path, tmp_path: Path) -> None:
        before = fingerprint(images)
        (tmp_path / "link").symlink_to(images)
        assert fingerprint(tmp_path / "link") == before
        shutil.copytree(images, tmp_path / "copy")  # with the times
        assert fingerprint(tmp_path / "copy") == before
        shutil.copytree(images, tmp_path / "made the other way round", copy_function=lambda *_: None)
        for file in sorted(images.rglob("*.png"), reverse=True):
            shutil.copy2(file, tmp_path / "made the other way round" / file.relative_to(images))
        assert fingerprint(tmp_path / "made the other way round") == before

    def test_of_one_file(self, tmp_path: Path) -> None:
        path = tmp_path / "images.zip"
        path.write_bytes(b"one")
        before = fingerprint(path)
        assert before is not None
        assert fingerprint(path) == before
        path.write_bytes(b"three")
        assert fingerprint(path) not in (before, None)

    def test_a_link_that_leads_nowhere_counts_by_its_name(self, images: Path) -> None:
        found = [fingerprint(images)]
        (images / "train/cat/lost.png").symlink_to(images / "gone")
        found.append(fingerprint(images))
        (images / "gone").write_bytes(b"here again")
        found.append(fingerprint(images))
        assert len(set(found)) == 3

    def test_its_module_is_quick_to_import(self) -> None:
        check = "import sys, vtp.fingerprint; print(*({'torch', 'numpy', 'pydantic', 'yaml'} & set(sys.modules)))"
        found = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, check=True)
        assert found.stdout.strip() == ""
