"""The source `imagefolder`: directories and archives as they should be."""

import io
import shutil
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

import vtp.data.sources.torchvision_shim  # noqa: F401  (before timm, which imports torchvision)
from tests.imagefolders import COUNTS, PARAMS, fetched, packed, pixels, saved, write_images
from vtp.data.sources import fetch
from vtp.data.sources.imagefolder import fetch_imagefolder
from vtp.errors import UserError


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_images(tmp_path / "images")


def test_directory(images: Path, tmp_path: Path) -> None:
    dataset = fetch_imagefolder(PARAMS, 0, tmp_path)
    assert dataset.class_names == ("cat", "dog")
    expected = [pixels(f"test/{name}/{number}") for name in ("cat", "dog") for number in range(2)]
    assert np.array_equal(dataset.test.images.permute(0, 2, 3, 1).numpy(), np.stack(expected))
    assert dataset.test.labels.tolist() == [0, 0, 1, 1]
    assert dataset.train.labels.tolist() == [0] * 4 + [1] * 4
    assert dataset.validation.labels.tolist() == [0, 1]
    found = torch.cat([dataset.train.images, dataset.validation.images]).permute(0, 2, 3, 1).numpy()
    expected = [pixels(f"train/{name}/{number}") for name in ("cat", "dog") for number in range(5)]
    assert sorted(image.tobytes() for image in found) == sorted(image.tobytes() for image in expected)


def test_validation_is_drawn_by_seed(images: Path, tmp_path: Path) -> None:
    drawn = {fetch_imagefolder(PARAMS, seed, tmp_path).validation.images.numpy().tobytes() for seed in range(5)}
    assert len(drawn) > 1


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
@pytest.mark.parametrize("archive", [None, "a.zip", "a.tar"])
def test_own_validation_folder(images: Path, name: str, archive: str | None) -> None:
    shutil.copytree(images / "test", images / name)
    dataset = fetched(packed(images, archive, "photos/") if archive else images)
    assert len(dataset.train) == 10
    assert torch.equal(dataset.validation.images, dataset.test.images)
    assert dataset.validation.labels.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tar.xz"])
@pytest.mark.parametrize("prefix", ["", "./", "photos/", "./photos/"])
def test_archives_give_the_same_bytes(images: Path, tmp_path: Path, name: str, prefix: str) -> None:
    expected = saved(fetched(images), tmp_path)
    path = packed(images, name, prefix, backwards=True)
    before = sorted(tmp_path.iterdir())
    assert saved(fetched(path), tmp_path) == expected
    assert sorted(tmp_path.iterdir()) == before


def test_directory_within_a_directory_and_linked(images: Path, tmp_path: Path) -> None:
    expected = saved(fetched(images), tmp_path)
    outer = tmp_path / "outer" / "photos"
    outer.mkdir(parents=True)
    for folder in COUNTS:
        (outer / folder).symlink_to(images / folder)
    (outer.parent / "README.txt").touch()
    assert saved(fetched(outer.parent), tmp_path) == expected


def test_a_loop_of_links_is_walked_once(images: Path, tmp_path: Path) -> None:
    expected = saved(fetched(images), tmp_path)
    (images / "train/cat/again").symlink_to(images / "train")
    (images / "train/dog/root").symlink_to(images)
    assert saved(fetched(images), tmp_path) == expected


def test_class_may_have_the_name_of_a_folder(images: Path) -> None:
    for folder in COUNTS:
        (images / folder / "dog").rename(images / folder / "train")
    assert fetched(images).class_names == ("cat", "train")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_any_mode_and_size(images: Path, mode: str) -> None:
    path = images / "test/cat/0.tif"
    (images / "test/cat/0.png").unlink()
    if mode == "I;16":
        picture = Image.fromarray(np.full((9, 13), 100 * 256, dtype=np.uint16))
    else:
        picture = Image.new("RGB", (13, 9), (100, 100, 100)).convert(mode)
    picture.save(path)
    image = fetched(images).test.images[0]
    assert image.shape == (3, 6, 6)
    if mode != "1":
        assert (image.int() - 100).abs().max() <= 2


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "bmp", "webp", "ppm", "tif"])
def test_any_format_whatever_its_name(images: Path, suffix: str) -> None:
    Image.new("RGB", (40, 20), (200, 50, 0)).save(images / f"test/cat/0.{suffix}")
    if suffix != "png":
        (images / f"test/cat/0.{suffix}").replace(images / "test/cat/0.png")
    red, green, blue = fetched(images).test.images[0].float().mean((1, 2)).tolist()
    assert (red, green, blue) == pytest.approx((200, 50, 0), abs=4)


def test_sixteen_bits_of_a_pgm_are_not_clipped(images: Path) -> None:
    levels = np.arange(36).reshape(6, 6) * 1872  # up to 65,520
    (images / "train/cat/0.png").write_bytes(b"P5 6 6 65535\n" + levels.astype(">u2").tobytes())
    dataset = fetched(images)
    found = [*dataset.train.images.numpy(), *dataset.validation.images.numpy()]
    assert any(np.array_equal(image[0], levels >> 8) for image in found)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_thirty_two_bits_are_refused_by_name(images: Path, mode: str) -> None:
    Image.new(mode, (6, 6)).save(images / "train/cat/0.tif")
    with pytest.raises(UserError, match=rf"train/cat/0.tif has levels of Pillow's mode {mode}, .*; allowed are"):
        fetched(images)


def test_palette_with_transparency(images: Path) -> None:
    picture = Image.new("P", (6, 6), 1)
    picture.putpalette([0, 0, 0, 10, 20, 30])
    picture.save(images / "test/cat/0.png", transparency=bytes([0, 128]))
    assert fetched(images).test.images[0, :, 0, 0].tolist() == [10, 20, 30]


# What is stored of an upright picture, by the sides that the EXIF standard names for its first row and column.
STORED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda upright: upright,  # top, left
    2: lambda upright: upright[:, ::-1],  # top, right
    3: lambda upright: upright[::-1, ::-1],  # bottom, right
    4: lambda upright: upright[::-1],  # bottom, left
    5: lambda upright: upright.swapaxes(0, 1),  # left, top
    6: lambda upright: upright[:, ::-1].swapaxes(0, 1),  # right, top
    7: lambda upright: upright[::-1, ::-1].swapaxes(0, 1),  # right, bottom
    8: lambda upright: upright[::-1].swapaxes(0, 1),  # left, bottom
}
ORIENTATION = ExifTags.Base.Orientation.value


def is_upright(images: Path) -> bool:
    """Whether the first test image of cats has the colours of `upright_picture` in its corners."""
    corners = fetched(images).test.images[0, :, [0, 0, -1, -1], [0, -1, 0, -1]].T.int()
    return bool((corners - torch.tensor(COLOURS).int()).abs().max() <= 8)


COLOURS = [[200, 0, 0], [0, 200, 0], [0, 0, 200], [200, 200, 200]]


def upright_picture() -> np.ndarray:
    """A wide picture of four coloured quarters (16, 32, 3)."""
    return np.array(COLOURS, dtype=np.uint8).reshape(2, 2, 3).repeat(8, axis=0).repeat(16, axis=1)


@pytest.mark.parametrize(
    ("suffix", "orientation"), [*(("jpg", number) for number in STORED), ("png", 6), ("webp", 6), ("tif", 6)]
)
def test_photos_are_turned_upright(images: Path, suffix: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright_picture())))
    stored.save(images / f"test/cat/0.{suffix}", exif=exif, quality=95)
    (images / f"test/cat/0.{suffix}").replace(images / "test/cat/0.png")
    assert is_upright(images)


def test_photos_are_turned_upright_whatever_else_their_camera_has_noted(images: Path) -> None:
    resolution_as_text = b"\x01\x1a\0\x02\0\0\0\x0372\0\0"  # where the standard wants a fraction
    turned = b"\x01\x12\0\x03\0\0\0\x01\0\x06\0\0"
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x02" + turned + resolution_as_text + bytes(4)
    stored = Image.fromarray(np.ascontiguousarray(STORED[6](upright_picture())))
    stored.save(images / "test/cat/0.png", "JPEG", exif=exif, quality=95)
    assert is_upright(images)


@pytest.mark.parametrize("exif", [b"Exif\0\0" + bytes(8), b"Exif\0\0MM", b"MM\0*\xff\xff\xff\xff"])
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_a_photo_whose_exif_is_damaged_is_taken_as_it_is(images: Path, suffix: str, exif: bytes) -> None:
    Image.fromarray(upright_picture()).save(images / f"test/cat/0.{suffix}", exif=exif, quality=95)
    (images / f"test/cat/0.{suffix}").replace(images / "test/cat/0.png")
    assert is_upright(images)


def test_reducing_averages(images: Path) -> None:
    stripes = np.zeros((60, 60, 3), dtype=np.uint8)
    stripes[:, ::2] = 200
    Image.fromarray(stripes).save(images / "test/cat/0.png")
    assert (fetched(images).test.images[0].int() - 100).abs().max() <= 5


def test_no_progress_bar_without_a_terminal(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fetched(images)
    assert capsys.readouterr().err == ""


def test_progress_bar_on_a_terminal(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stderr", terminal)
    fetched(images)
    assert "14/14" in terminal.getvalue()


@pytest.mark.parametrize("crop_mode", ["center", "squash"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_photos_come_to_the_model_as_timm_brings_them(crop_mode: str, interpolation: Any, tmp_path: Path) -> None:
    data: Any = import_module("timm.data")
    generator = torch.Generator().manual_seed(0)
    shapes = [(40, 61), (61, 40), (33, 33), (20, 90), (90, 21), (24, 24), (28, 28), (57, 43)]
    transform = data.create_transform(
        (3, 24, 24),
        crop_pct=24 / 28,
        crop_mode=crop_mode,
        interpolation=interpolation,
        mean=(0, 0, 0),
        std=(1, 1, 1),
    )
    wanted = []
    for index, shape in enumerate(shapes):
        image = Image.fromarray(torch.randint(0, 256, (*shape, 3), dtype=torch.uint8, generator=generator).numpy())
        wanted.append((255 * transform(image)).round().to(torch.uint8))
        for split in ("train", "test", "val"):
            folder = tmp_path / split / f"class {index // 4}"
            folder.mkdir(parents=True, exist_ok=True)
            image.save(folder / f"{index}.png")
    params = replace(
        PARAMS,
        path=str(tmp_path),
        image_size=24,
        resize=28,
        squash=crop_mode == "squash",
        interpolation=interpolation,
    )
    assert torch.equal(fetch(params, 0, tmp_path).test.images, torch.stack(wanted))
