"""Small image folders for the tests, and archives of them."""

import hashlib
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from vtp.data.dataset import Dataset, save_dataset
from vtp.data.sources.imagefolder import fetch_imagefolder
from vtp.params import DataParams

PARAMS = DataParams(
    name="imagefolder",
    path="images",
    sha256=None,
    image_size=6,
    resize=0,
    squash=True,
    interpolation="bilinear",
    validation_fraction=0.2,
)
COUNTS = {"train": 5, "test": 2}


def pixels(name: str, shape: tuple[int, ...] = (6, 6, 3)) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4])
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write_images(path: Path) -> Path:
    """Write and return a directory of lossless 6×6 images, each a function of its name."""
    for folder, count in COUNTS.items():
        for name in ("cat", "dog"):
            parent = path / folder / name
            parent.mkdir(parents=True)
            for number in range(count):
                Image.fromarray(pixels(f"{folder}/{name}/{number}")).save(parent / f"{number}.png")
    return path


def fetched(path: Path, **changes: object) -> Dataset:
    return fetch_imagefolder(replace(PARAMS, path=str(path), **changes), 0, Path("/nowhere"))  # type: ignore[arg-type]


def saved(dataset: Dataset, tmp_path: Path) -> bytes:
    save_dataset(dataset, tmp_path / "saved")
    return (tmp_path / "saved").read_bytes()


def packed(images: Path, name: str, prefix: str = "", backwards: bool = False) -> Path:
    """Pack the tree, `prefix` before each name, beside it."""
    path = images.with_name(name)
    files = sorted((file for file in images.rglob("*") if file.is_file()), reverse=backwards)
    if name.endswith(".zip"):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in files:
                archive.write(file, f"{prefix}{file.relative_to(images)}")
    else:
        with tarfile.open(path, f"w:{name.partition('.tar.')[2]}") as archive:
            for file in files:
                archive.add(file, f"{prefix}{file.relative_to(images)}")
    return path
