"""predict IMAGE...: the class of each image and its probability, by the fine-tuned model."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from stages.paths import model_path
from stages.shared import run_stage
from vtp.checkpoint import load, load_class_names, load_resizing
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
    resizing = load_resizing(arguments.model)
    images = torch.stack([read_image(path, model.spec.channels, resizing) for path in files])
    probabilities, classes = predict(model, images).max(1)
    rows = [
        (str(path), class_names[index], percent(probability))
        for path, index, probability in zip(files, classes.tolist(), probabilities.tolist(), strict=True)
    ]
    print(markdown_table(("image", "class", "probability (%)"), rows), end="")


def image_files(paths: Sequence[Path]) -> list[Path]:
    """Return the files of `paths` and, of folders, what is below them with the name of an image, by name.

    Raises UserError if there is none at all, or something is not there.
    """
    endings = Image.registered_extensions()
    found = []
    for path in paths:
        if path.is_dir():
            files = [Path(folder, name) for folder, _, names in walk(path) for name in names]
            found += [file for file in files if file.suffix.lower() in endings]
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
