"""The source `imagefolder`: names as other systems and packers write them."""

import re
import shutil
import unicodedata
import zipfile
from pathlib import Path

import pytest

from tests.imagefolders import COUNTS, fetched, packed, saved, write_images


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_images(tmp_path / "images")


def test_files_that_systems_leave_behind_are_skipped(images: Path, tmp_path: Path) -> None:
    expected = saved(fetched(images), tmp_path)
    for name in (
        ".DS_Store",
        "train/.DS_Store",
        "train/cat/._0.png",
        "__MACOSX/train/cat/._0.png",
        "test/Thumbs.db",
        "train/cat/desktop.ini",
        "train/cat/Icon\r",
        "train/@eaDir/0.png",
    ):
        (images / name).parent.mkdir(exist_ok=True, parents=True)
        (images / name).write_bytes(b"not an image")
    (images / ".git").mkdir()
    (images / "README.md").write_text("other files beside the folders are left alone")
    assert saved(fetched(images), tmp_path) == expected
    assert saved(fetched(packed(images, "a.zip", "photos/")), tmp_path) == expected


@pytest.mark.parametrize("prefix", ["", "photos/"])
def test_folders_of_images_may_be_in_capitals(images: Path, prefix: str, tmp_path: Path) -> None:
    shutil.copytree(images / "test", images / "val")
    expected = saved(fetched(images), tmp_path)
    for folder, name in (("train", "Train"), ("test", "TEST"), ("val", "Val")):
        (images / folder).rename(images / name)
    assert saved(fetched(images), tmp_path) == expected
    assert saved(fetched(packed(images, "a.zip", prefix)), tmp_path) == expected


def test_accents_may_be_apart_in_one_folder_and_not_in_the_other(images: Path) -> None:
    for folder, name in (("train", "café"), ("test", unicodedata.normalize("NFD", "café"))):
        (images / folder / "cat").rename(images / folder / name)
    assert fetched(images).class_names == ("café", "dog")


def test_zip_whose_names_are_utf_8_without_saying_so(images: Path) -> None:
    for folder in COUNTS:
        (images / folder / "cat").rename(images / folder / "猫é")
    path = packed(images, "a.zip")
    content = bytearray(path.read_bytes())
    for signature, flags in ((rb"PK\x03\x04", 6), (rb"PK\x01\x02", 8)):  # before each file, and in the list of all
        for header in re.finditer(signature, bytes(content)):
            content[header.start() + flags + 1] &= ~0x08
    path.write_bytes(content)
    assert fetched(path).class_names == ("dog", "猫é")


def test_zip_with_the_slashes_of_windows(images: Path, tmp_path: Path) -> None:
    expected = saved(fetched(images), tmp_path)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for file in images.rglob("*.png"):
            member = zipfile.ZipInfo(str(file.relative_to(tmp_path)).replace("/", "\\"))
            member.create_system = 0
            archive.writestr(member, file.read_bytes())
    assert saved(fetched(tmp_path / "a.zip"), tmp_path) == expected


@pytest.mark.parametrize("kind", ["hard", "symbolic"])
def test_tar_with_links_to_files_that_it_has(images: Path, kind: str, tmp_path: Path) -> None:
    path, link = images / "test/cat/1.png", images / "train/cat/5.png"
    shutil.copy(path, link)
    expected = saved(fetched(images), tmp_path)
    link.unlink()
    if kind == "hard":
        link.hardlink_to(path)
    else:
        link.symlink_to("../../test/cat/1.png")
    assert saved(fetched(packed(images, "a.tar.gz")), tmp_path) == expected
