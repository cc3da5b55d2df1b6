"""The source `imagefolder`: archives that were cut short, altered or made by somebody else, one sentence each."""

import os
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.imagefolders import fetched, packed, saved, write_images
from vtp.errors import UserError


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_images(tmp_path / "images")


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tar.xz"])
def test_truncated_archive(images: Path, name: str) -> None:
    path = packed(images, name)
    whole = path.read_bytes()
    end = len(whole.rstrip(b"\0")) if name == "a.tar" else len(whole)
    for kept in (0, 1, 300, end // 2, end - 1):
        path.write_bytes(whole[:kept])
        with pytest.raises(
            UserError, match=f"{name}: truncated, altered or of another kind; .*directory"
        ) as caught:
            fetched(path)
        assert "\n" not in str(caught.value)


def test_tar_that_ends_between_two_files(images: Path) -> None:
    path = packed(images, "a.tar")
    with tarfile.open(path) as archive:
        last = archive.getmembers()[-1].offset
    path.write_bytes(path.read_bytes()[:last])
    with pytest.raises(UserError, match=r"a.tar: truncated"):
        fetched(path)


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz", "a.tar.xz"])
def test_altered_archive(images: Path, name: str) -> None:
    path = packed(images, name)
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"{name}: truncated, altered"):
        fetched(path)


def test_name_that_is_no_text_within_a_zip(images: Path) -> None:
    (images / "train/cat").rename(images / "train/ç")
    (images / "test/cat").rename(images / "test/ç")
    path = packed(images, "a.zip")
    path.write_bytes(path.read_bytes().replace("ç".encode(), b"\xff\xff"))
    with pytest.raises(UserError, match=r"a.zip: truncated, altered or of another kind"):
        fetched(path)


def test_altered_header_within_a_tar(images: Path) -> None:
    path = packed(images, "a.tar")
    with tarfile.open(path) as archive:
        middle = archive.getmembers()[5].offset
    content = bytearray(path.read_bytes())
    content[middle + 3] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a.tar: truncated, altered"):
        fetched(path)


@pytest.mark.parametrize("name", ["images.npz", "images.zip", "images.tar.gz", "images.7z"])
def test_file_of_another_kind(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(os.urandom(2000))
    with pytest.raises(UserError, match=rf"{name}: .*allowed is a directory or one of .zip, .tar"):
        fetched(tmp_path / name)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE])
def test_archive_cannot_reach_out(images: Path, kind: bytes) -> None:
    path = packed(images, "a.tar")
    link = tarfile.TarInfo("train/cat/link.png")
    link.type, link.linkname = kind, "/etc/passwd"
    with tarfile.open(path, "a") as archive:
        archive.addfile(link)
    with pytest.raises(UserError, match=r"a.tar: train/cat/link.png is a device or a link that leads out"):
        fetched(path)


def test_names_that_lead_out_of_the_archive_are_left_alone(images: Path, tmp_path: Path) -> None:
    expected = saved(fetched(images), tmp_path)
    path = packed(images, "a.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../escaped/cat/1.png", b"out")
        archive.writestr("train/../../escaped.png", b"out")
    assert saved(fetched(path), tmp_path) == expected
    assert not list(tmp_path.rglob("escaped*"))


def test_encrypted_zip(images: Path) -> None:
    path = packed(images, "a.zip")
    content = path.read_bytes()
    for signature, flag in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = content.index(signature) + flag
        content = content[:at] + bytes([content[at] | 1]) + content[at + 1 :]
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a.zip: truncated, altered or of another kind"):
        fetched(path)
