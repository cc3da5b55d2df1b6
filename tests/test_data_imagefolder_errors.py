"""The source `imagefolder`: every kind of bad input gets one sentence that names it."""

import hashlib
import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.imagefolders import PARAMS, fetched, packed, saved, write_images
from vtp.data.imagefolder import fetch_imagefolder
from vtp.errors import UserError


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_images(tmp_path / "images")


def test_checksum(images: Path) -> None:
    path = packed(images, "a.tar.gz")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert len(fetched(path, sha256=digest).test) == 4
    with pytest.raises(UserError, match=rf"a.tar.gz: its sha256 is {digest}, but data.sha256 .* 0000"):
        fetched(path, sha256="0" * 64)
    with pytest.raises(UserError, match=r"data.sha256 is given, but .*images is a directory"):
        fetched(images, sha256=digest)


def test_null_and_missing_path(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data.path is null, but data.name imagefolder needs"):
        fetch_imagefolder(replace(PARAMS, path=None), 0, tmp_path)
    with pytest.raises(UserError, match=r"data.path is 'images', but .*images does not exist"):
        fetch_imagefolder(PARAMS, 0, tmp_path)


def empty_class(images: Path) -> str:
    (images / "train/bird").mkdir()
    (images / "test/bird").mkdir()
    return r"images: test/bird has too few images: 0, but at least 1 needed"


def class_of_one_image(images: Path) -> str:
    for number in range(4):
        (images / f"train/cat/{number}.png").unlink()
    return r"train/cat has too few images: 1, but at least 2 needed"


def class_only_in_test(images: Path) -> str:
    shutil.copytree(images / "test/cat", images / "test/bird")
    return r"test/bird has no counterpart in train/"


def class_only_in_train(images: Path) -> str:
    shutil.rmtree(images / "test/cat")
    return r"train/cat has no counterpart in test/"


def class_not_in_val(images: Path) -> str:
    shutil.copytree(images / "test/cat", images / "val/cat")
    return r"train/dog has no counterpart in val/"


def no_train(images: Path) -> str:
    shutil.rmtree(images / "train")
    return r"no class folder in train/; found is test/, allowed is train/<class>/<image> and test"


def no_test(images: Path) -> str:
    shutil.rmtree(images / "test")
    return r"no class folder in test/; found is train/, allowed"


def nothing_at_all(images: Path) -> str:
    shutil.rmtree(images)
    images.mkdir()
    return r"no class folder in train/; found is neither train/ nor test/"


def no_class_folders(images: Path) -> str:
    shutil.copy(images / "train/cat/0.png", images / "train/0.png")
    return r"train/0.png is in no class folder"


def text_for_an_image(images: Path) -> str:
    (images / "test/dog/notes.txt").write_text("ask Ann")
    return r"images: test/dog/notes.txt is not an image"


def truncated_image(images: Path) -> str:
    path = images / "train/dog/3.png"
    path.write_bytes(path.read_bytes()[:-30])
    return r"images: train/dog/3.png is not an image that Pillow reads, or is truncated"


def empty_image(images: Path) -> str:
    (images / "train/dog/3.png").write_bytes(b"")
    return r"images: train/dog/3.png is not an image"


def dangling_link(images: Path) -> str:
    (images / "train/dog/9.png").symlink_to(images / "gone")
    return r"train/dog/9.png: cannot be read \(No such file"


@pytest.mark.parametrize(
    "spoil",
    [
        empty_class,
        class_of_one_image,
        class_only_in_test,
        class_only_in_train,
        class_not_in_val,
        no_train,
        no_test,
        nothing_at_all,
        no_class_folders,
        text_for_an_image,
        truncated_image,
        empty_image,
        dangling_link,
    ],
)
def test_bad_directory(images: Path, spoil: Callable[[Path], str]) -> None:
    message = spoil(images)
    with pytest.raises(UserError, match=message) as caught:
        fetched(images)
    assert "\n" not in str(caught.value)


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


def test_altered_name_within_a_zip(images: Path) -> None:
    path = packed(images, "a.zip")
    whole = path.read_bytes()
    position = whole.rindex(b"train/cat/0.png")
    path.write_bytes(whole[:position] + b"brain" + whole[position + 5 :])
    with pytest.raises(UserError, match=r"a.zip: truncated, altered"):
        fetched(path)


def test_entries_that_vanish_from_a_zip_are_missed(images: Path) -> None:
    """The length of one entry's comment grows over the next entry, which zipfile then skips."""
    path = packed(images, "a.zip")
    content = bytearray(path.read_bytes())
    first = content.index(b"PK\x01\x02")
    second = content.index(b"PK\x01\x02", first + 1)
    third = content.index(b"PK\x01\x02", second + 1)
    content[first + 32] = third - second
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a.zip: truncated, altered or of another kind"):
        fetched(path)


def test_name_that_is_no_text_within_a_zip(images: Path) -> None:
    (images / "train/cat").rename(images / "train/ç")
    (images / "test/cat").rename(images / "test/ç")
    path = packed(images, "a.zip")
    path.write_bytes(path.read_bytes().replace("ç".encode(), b"\xff\xff"))
    with pytest.raises(UserError, match=r"a.zip: truncated, altered or of another kind"):
        fetched(path)


@pytest.mark.parametrize("path", ["~nobody-of-that-name/x.zip", "x" * 300, "a\0b"])
def test_path_that_cannot_be_one(path: str) -> None:
    with pytest.raises(UserError, match=r"^params.yaml: data.path is '.*', which cannot be read \(.+\)$"):
        fetch_imagefolder(replace(PARAMS, path=path), 0, Path("/"))


def test_folder_that_cannot_be_read_matters_where_images_may_be(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (images / "lost+found").mkdir()
    closed: list[Path] = []
    scandir = os.scandir

    def guarded(path: str) -> object:
        if Path(path) in closed:
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    closed.append(images / "lost+found")
    fetched(images)
    closed.append(images / "train/cat")
    with pytest.raises(UserError, match=r"images/train/cat: cannot be read \(Permission denied\)"):
        fetched(images)


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


def test_bad_image_in_an_archive_is_named(images: Path) -> None:
    truncated_image(images)
    for name in ("a.zip", "a.tar.xz"):
        with pytest.raises(UserError, match=f"{name}: photos/train/dog/3.png is not an image"):
            fetched(packed(images, name, "photos/"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_archive_cannot_reach_out(images: Path, kind: bytes) -> None:
    path = packed(images, "a.tar")
    link = tarfile.TarInfo("train/cat/link.png")
    link.type, link.linkname = kind, "/etc/passwd"
    with tarfile.open(path, "a") as archive:
        archive.addfile(link)
    with pytest.raises(UserError, match=r"a.tar: train/cat/link.png is a link or a device"):
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
