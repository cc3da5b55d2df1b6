"""The source `imagefolder`: train/<class>/* and test/<class>/*, as files or in an archive."""

import io
import re
import unicodedata
import warnings
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt
import torch
from PIL import ExifTags, Image
from tqdm import tqdm

from vtp.data.dataset import Dataset, Resizing, Split
from vtp.data.params import ImageParams
from vtp.data.sources.archives import FOLDERS, KINDS, VALIDATION, FileTree, open_tree
from vtp.data.sources.common import check_sha256, crop_offset, local_path, resized_shape, split_off
from vtp.errors import UserError

ALLOWED = "train/<class>/<image> and test/<class>/<image>, with or without <class>/<image> in one of " + ", ".join(
    f"{name}/" for name in VALIDATION
)

HIDDEN = {"__MACOSX", "Icon\r", "Thumbs.db", "desktop.ini", "@eaDir"}  # and every name with a dot before it

# How to turn a photo upright, by the orientation that its camera has noted in it.
UPRIGHT: dict[object, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

MOST_PIXELS = 2**28  # of an image whose shape is kept, before its centre is cropped

INTERPOLATIONS = {name: Image.Resampling[name.upper()] for name in ("nearest", "bilinear", "bicubic", "lanczos")}

# Of each folder: of each class: the parts of a file's name below the root -> its whole name in the source.
Layout = dict[str, dict[str, dict[tuple[str, ...], str]]]


def fetch_imagefolder(params: ImageParams, seed: int, root: Path) -> Dataset:
    """Return the images in RGB, upright, as `params` say; `seed` draws validation if it has no folder.

    The result depends on names and contents only, not on how the files are stored or packed. Raises
    UserError, naming the file or folder, for anything that is not as it should be.
    """
    if not params.path:
        raise UserError(
            "params.yaml: data.path is empty, but data.name imagefolder needs the path of a directory or "
            f"of an archive ({KINDS})"
        )
    path = local_path(params.path, root)
    check_sha256(path, params.sha256)
    tree = open_tree(path)
    layout = _layout(tree.names(), path)
    _check(layout, path)
    splits = _decoded(tree, layout, params, path)
    train = splits["train"]
    validation = next((splits[name] for name in VALIDATION if name in splits), None)
    if validation is None:
        train, validation = split_off(train, params.validation_fraction, seed)
    return Dataset(train, validation, splits["test"], tuple(sorted(layout["train"])))


def _layout(names: Iterable[str], path: Path) -> Layout:
    layout: Layout = {}
    for parts, name in _below_root(names).items():
        folder, is_file = parts[0].casefold(), not name.endswith("/")
        if folder not in FOLDERS:
            continue
        if len(parts) <= 2 and is_file:
            raise UserError(f"{path}: {'/'.join(parts)} is in no class folder; allowed is {ALLOWED}")
        classes = layout.setdefault(folder, {})
        if len(parts) >= 2:
            # Some systems take the accents of a name apart; it looks the same.
            files = classes.setdefault(unicodedata.normalize("NFC", parts[1]), {})
            if is_file:
                files[parts] = name
    return layout


def hidden(parts: Iterable[str]) -> bool:
    """Say whether a file of these parts of a path is one that people do not see, as systems leave behind."""
    return any(part.startswith(".") or part in HIDDEN for part in parts)


def _below_root(names: Iterable[str]) -> dict[tuple[str, ...], str]:
    """Return parts -> name without hidden files and without a single folder around it all."""
    visible = {}
    for name in names:
        parts = PurePosixPath(name).parts
        if parts and not hidden(parts):
            visible[parts] = name
    top = {parts[0].casefold() for parts, name in visible.items() if len(parts) > 1 or name.endswith("/")}
    if len(top) == 1 and not top & set(FOLDERS):
        return {parts[1:]: name for parts, name in visible.items() if len(parts) > 1}
    return visible


def _check(layout: Layout, path: Path) -> None:
    for folder in ("train", "test"):
        if not layout.get(folder):
            found = " and ".join(f"{name}/" for name in sorted(layout)) or "neither train/ nor test/"
            raise UserError(f"{path}: no class folder in {folder}/; found is {found}, allowed is {ALLOWED}")
    if len(layout["train"]) < 2:
        raise UserError(f"{path}: train/ has the only class {min(layout['train'])}; at least two are needed")
    own = [f"{name}/" for name in VALIDATION if name in layout]
    if len(own) > 1:
        raise UserError(f"{path}: found are {' and '.join(own)}; allowed is {ALLOWED}")
    for name in layout["train"]:
        if re.search("[\udc80-\udcff]", name):  # bytes that are no text, as Python keeps them
            raise UserError(f"{path}: the class name {name!r} is not UTF-8; rename its folders")
    for folder, classes in sorted(layout.items()):
        for name in sorted(classes.keys() ^ layout["train"].keys()):
            here, there = (folder, "train") if name in classes else ("train", folder)
            raise UserError(
                f"{path}: {here}/{name} has no counterpart in {there}/; all must have the same classes"
            )
        for name, files in sorted(classes.items()):
            # Train gives images of every class to validation where it has no folder.
            least = 2 if folder == "train" and not own else 1
            if len(files) < least:
                raise UserError(
                    f"{path}: {folder}/{name} has too few images: {len(files)}, but at least {least} needed"
                )


def _decoded(tree: FileTree, layout: Layout, params: ImageParams, path: Path) -> dict[str, Split]:
    images, labels, size = {}, {}, params.image_size
    places: dict[str, tuple[str, int]] = {}
    for folder, classes in layout.items():
        files = [
            (label, *file) for label, name in enumerate(sorted(classes)) for file in sorted(classes[name].items())
        ]
        images[folder] = np.empty((len(files), 3, size, size), dtype=np.uint8)
        labels[folder] = torch.tensor([label for label, _, _ in files])
        places |= {name: (folder, index) for index, (_, _, name) in enumerate(files)}
    progress = tqdm(tree.contents(places), "decoding", len(places), unit=" images", disable=None)
    for name, content in progress:
        folder, index = places[name]
        images[folder][index] = pixels(content, params, f"{path}: {name}")
    return {folder: Split(torch.from_numpy(images[folder]), labels[folder]) for folder in layout}


def pixels(content: bytes, params: "ImageParams | Resizing", where: str) -> npt.NDArray[np.uint8]:
    """Return the image in a file's `content` as (3, image_size, image_size), RGB, upright, as `params` say.

    Raises UserError, which calls the file `where`, if it is no image.
    """
    try:
        # Pillow warns of large images and odd EXIF, without the file's name; such images are sound.
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(content)) as image:
            rgb = _rgb(image, where)
            if (turn := UPRIGHT.get(_orientation(image))) is not None:
                rgb = rgb.transpose(turn)
    except UserError:
        raise
    except Image.DecompressionBombError as error:
        raise UserError(f"{where} has more pixels than Pillow decodes; make it smaller") from error
    except Exception as error:  # a decoder may raise anything at all when it is given a damaged file
        raise UserError(f"{where} is not an image that Pillow reads, or is truncated or altered") from error
    height, width = resized_shape(rgb.height, rgb.width, params)
    if height * width > MOST_PIXELS:
        raise UserError(
            f"{where} is too narrow: of its {rgb.width}×{rgb.height} pixels the model's size makes "
            f"{width}×{height}, but at most {MOST_PIXELS:,} are allowed; crop it"
        )
    if rgb.size != (width, height):
        rgb = rgb.resize((width, height), INTERPOLATIONS[params.interpolation])
    top, left = crop_offset(height, params), crop_offset(width, params)
    cropped = np.asarray(rgb)[top : top + params.image_size, left : left + params.image_size]
    return cropped.transpose(2, 0, 1)


def _orientation(image: Image.Image) -> int | None:
    """Return what the EXIF says, if there is one and it can be read."""
    # ImageOps.exif_transpose would write the EXIF anew, and fail where another entry is odd.
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # as a decoder, it may raise anything; the pixels are sound
        return None


def _rgb(image: Image.Image, where: str) -> Image.Image:
    # Pillow would clip every level above 255 to white. It scales PGM of more than 8 bits to 16.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise UserError(
            f"{where} has levels of Pillow's mode {image.mode}, which does not say which is white; "
            "allowed are levels of 8 bits, and unsigned ones of 16"
        )
    if image.mode == "P":  # a palette with transparency has no direct way to RGB
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")
