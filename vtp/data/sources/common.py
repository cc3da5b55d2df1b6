"""What the sources share: finding and checking the local file, splitting, resizing."""

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from vtp.data.dataset import Resizing, Split
from vtp.data.params import ImageParams
from vtp.errors import UserError
from vtp.files import users_file


def local_path(path: str, root: Path) -> Path:
    """Return `data.path`, relative to the repository root; raise UserError if nothing is there."""
    resolved = users_file("data.path", path, root)
    try:
        resolved.stat()
    except FileNotFoundError as error:
        raise UserError(f"params.yaml: data.path is {path!r}, but {resolved} does not exist") from error
    except OSError as error:
        raise UserError(f"params.yaml: data.path is {path!r}, which cannot be read ({error.strerror})") from error
    return resolved


def check_sha256(path: Path, expected: str | None) -> None:
    """Raise UserError unless the file at `path` has the digest that `data.sha256` names, if it names one."""
    if expected is None:
        return
    if path.is_dir():
        raise UserError(
            f"params.yaml: data.sha256 is given, but {path} is a directory; it must be null for a directory"
        )
    found = file_digest(path, "sha256")
    if found != expected.lower():
        raise UserError(f"{path}: its sha256 is {found}, but data.sha256 in params.yaml is {expected}")


def file_digest(path: Path, algorithm: str) -> str:
    """Return the hexadecimal digest of a file; `algorithm` is one of hashlib's names. UserError if unreadable."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, algorithm).hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def split_off(split: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """Return (rest, part): `part` has `fraction` of the images of every class, drawn at random by `seed`.

    Both keep the order of `split`. A class of two images or more is in both.
    """
    generator = np.random.default_rng(seed)
    labels = split.labels.numpy()
    drawn = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        count = min(max(1, round(fraction * len(members))), len(members) - 1)
        drawn[members[:count]] = True
    part = torch.from_numpy(drawn)
    return Split(split.images[~part], split.labels[~part]), Split(split.images[part], split.labels[part])


def resized_shape(height: int, width: int, params: "ImageParams | Resizing") -> tuple[int, int]:
    """Return the height and width, pixels, to which an image is resized before its centre is cropped.

    The longer side is rounded down, as torchvision's and timm's transforms do.
    """
    size = params.resize or params.image_size
    if params.squash:
        return size, size
    shorter = min(height, width)
    return size * height // shorter, size * width // shorter


def crop_offset(side: int, params: "ImageParams | Resizing") -> int:
    """Return where on a side of so many pixels the centre begins that is kept; halves go to the even pixel."""
    return round((side - params.image_size) / 2)


def resized(images: torch.Tensor, params: ImageParams) -> torch.Tensor:
    """Return uint8 images (N, C, image_size, image_size), with antialias; unchanged if they fit."""
    height, width = images.shape[-2:]
    shape = resized_shape(height, width, params)
    if (height, width) != shape:
        images = functional.interpolate(images, size=shape, mode=params.interpolation, antialias=True)
    (top, left), size = (crop_offset(side, params) for side in shape), params.image_size
    return images[..., top : top + size, left : left + size].contiguous()
