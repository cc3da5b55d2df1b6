"""predict IMAGE...: the class of each image and its probability, by the fine-tuned model."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from stages.paths import model_path
from stages.shared import run_stage
from vtp.checkpoint import load, load_class_names, load_resizing
from vtp.data.dataset import Resizing
from vtp.data.sources.imagefolder import hidden
from vtp.errors import UserError
from vtp.files import walk
from vtp.predict import predict, read_image
from vtp.report import markdown_table, percent


def main() -> None:
    """Print a table with a row for each image; images of any size are resized as those it was trained on."""
    parser = argparse.ArgumentParser(prog="commands.predict", description=__doc__)
    parser.add_argument("images", nargs="*", type=Path, help="files, and folders of them")
    parser.add_argument("--model", type=Path, default=model_path("finetune"), help="checkpoint (%(default)s)")
    arguments = parser.parse_args()
    files = image_files(arguments.images)
    model, class_names = load(arguments.model), load_class_names(arguments.model)
    images = read(files, arguments.images, model.spec.channels, load_resizing(arguments.model))
    probabilities, classes = predict(model, torch.stack([*images.values()])).max(1)
    rows = [
        (str(path), class_names[index], percent(probability))
        for path, index, probability in zip(images, classes.tolist(), probabilities.tolist(), strict=True)
    ]
    print(markdown_table(("image", "class", "probability (%)"), rows), end="")


def read(files: Sequence[Path], named: Sequence[Path], channels: int, resizing: Resizing) -> dict[Path, Tensor]:
    """Return file -> image, without those, found in folders, that are none; it says which they are.

    Raises UserError if one that was named is no image, or all are left out.
    """
    images = {}
    for path in files:
        try:
            images[path] = read_image(path, channels, resizing)
        except UserError as error:
            if path in named:
                raise
            print(f"left out: {error}", file=sys.stderr)
    if not images:
        raise UserError("predict: no file that was found is an image")
    return images


def image_files(paths: Sequence[Path]) -> list[Path]:
    """Return the files of `paths` and, of folders, what is seen below them with the name of an image, by name.

    Raises UserError if there is none at all, or something is not there.
    """
    endings = {ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    found = []
    for path in paths:
        if path.is_dir():
            files = [Path(folder, name) for folder, _, names in walk(path) for name in names]
            seen = [file for file in files if not hidden(file.relative_to(path).parts)]
            found += [file for file in seen if file.suffix.lower() in endings]
        elif path.exists():
            found.append(path)
        else:
            raise UserError(f"predict: {path}: no such file or folder")
    if not found:
        named = " ".join(map(str, paths))
        where = f"no image in {named}" if named else "no image is named"
        raise UserError(f'predict: {where}; name files or folders: make predict IMAGES="a.png photos"')
    return found


if __name__ == "__main__":
    run_stage(main)
