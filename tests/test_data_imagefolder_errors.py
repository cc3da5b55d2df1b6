"""The source `imagefolder`: every kind of bad input gets one sentence that names it."""

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from tests.imagefolders import COUNTS, PARAMS, fetched, packed, write_images
from vtp.data.sources.imagefolder import fetch_imagefolder
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


@pytest.mark.parametrize("path", [None, ""])
def test_empty_and_missing_path(path: str | None, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data.path is empty, but data.name imagefolder needs"):
        fetch_imagefolder(replace(PARAMS, path=path), 0, tmp_path)
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


def one_class(images: Path) -> str:
    for folder in COUNTS:
        shutil.rmtree(images / folder / "cat")
    return r"images: train/ has the only class dog; at least two are needed"


def two_validation_folders(images: Path) -> str:
    for name in ("valid", "val"):
        shutil.copytree(images / "test", images / name)
    return r"images: found are val/ and valid/; allowed is train/.*in one of val/, valid/, validation/"


def class_name_that_is_no_text(images: Path) -> str:
    for folder in COUNTS:
        (images / folder / "cat").rename(os.fsdecode(os.fsencode(images / folder) + b"/k\xe4fer"))
    return r"images: the class name 'k\\udce4fer' is not UTF-8"


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
        class_name_that_is_no_text,
        one_class,
        two_validation_folders,
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


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("~nobody-of-that-name/x.zip", "names '.*', but there is no such user"),
        ("x" * 300, r"is '.*', which cannot be read \(.+\)"),
    ],
)
def test_path_that_cannot_be_one(path: str, words: str) -> None:
    with pytest.raises(UserError, match=f"^params.yaml: data.path {words}$"):
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


def test_an_image_of_too_many_pixels_is_told_from_a_damaged_one(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 1)
    with pytest.raises(UserError, match=r"test/cat/0.png has more pixels than Pillow decodes; make it smaller"):
        fetched(images)


def test_an_image_too_narrow_to_keep_its_shape_is_refused_before_it_fills_the_memory(images: Path) -> None:
    Image.new("L", (60000, 1)).save(images / "test/cat/0.png")
    assert len(fetched(images).test) == 4
    with pytest.raises(UserError, match=r"test/cat/0.png is too narrow: of its 60000×1 pixels .* 5040000×84, but"):
        fetched(images, image_size=84, squash=False)


def test_pillow_does_not_warn_of_large_images(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 20)  # it warns above that, and refuses twice as many
    assert len(fetched(images).test) == 4


def test_bad_image_in_an_archive_is_named(images: Path) -> None:
    truncated_image(images)
    for name in ("a.zip", "a.tar.xz"):
        with pytest.raises(UserError, match=f"{name}: photos/train/dog/3.png is not an image"):
            fetched(packed(images, name, "photos/"))
