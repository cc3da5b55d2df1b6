"""What the models answer."""

from collections.abc import Mapping, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from vtp.colours import BLUE, VERMILION
from vtp.pictures.style import write

COLUMNS = 8  # images side by side
LARGEST = 24  # number of images
NARROW = 9  # letters of a class's name that fit above an image
LONGEST = 26  # letters of a name that are shown


def plot_confusion(confusions: Mapping[str, Mapping[str, Mapping[str, int]]], images: int, path: Path) -> None:
    """Draw which class the images of each class were taken for, one map a model.

    Args:
        confusions: model -> class -> the class it was taken for -> how many images.
        images: how many there were.
        path: of the picture.
    """
    names = list(next(iter(confusions.values())))
    labels = [_shortened(name) for name in names]
    size = min(10.0, max(4.0, 0.35 * len(names)) + 0.07 * max(map(len, labels)))
    figure = Figure(figsize=(2 * size + 1.5, size + 0.6), layout="constrained")
    for axes, (model, counts) in zip(
        figure.subplots(1, len(confusions), squeeze=False).flat, confusions.items(), strict=True
    ):
        matrix = np.array([[counts[true].get(taken, 0) for taken in names] for true in names])
        shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
        drawn = axes.imshow(shares, "Blues", PowerNorm(0.4, 0, 1))  # so that single mistakes are seen
        if len(names) <= 20:
            for (row, column), count in np.ndenumerate(matrix):
                if count:
                    colour = "white" if shares[row, column] > 0.3 else "black"
                    axes.text(column, row, f"{count}", ha="center", va="center", fontsize=8, color=colour)
        step = -(-len(names) // 50)
        axes.set_xticks(range(0, len(names), step), labels[::step], rotation=90, fontsize=7)
        axes.set_yticks(range(0, len(names), step), labels[::step], fontsize=7)
        right = np.trace(matrix) / max(matrix.sum(), 1)
        axes.set(title=f"{model}: {100 * right:.2f} % right", xlabel="taken for", ylabel="class")
    figure.colorbar(drawn, ax=figure.axes, label="share of the class", shrink=0.8)
    figure.suptitle(f"validation images, n = {images:,}", fontsize=11)
    write(figure, path)


def plot_differences(
    images: npt.NDArray[np.uint8], differing: Sequence[Mapping[str, Any]], model: str, path: Path
) -> None:
    """Draw images that the dense model and another take for different classes, each under both answers.

    Args:
        images: all that were asked of, (N, C, H, W), of one channel or three.
        differing: the `image` (its place among them), its `class`, and what `dense` and `finetuned` take it for.
        model: the name of the other model.
        path: of the picture.
    """
    lost = [answer for answer in differing if answer["dense"] == answer["class"]]
    won = [answer for answer in differing if answer["finetuned"] == answer["class"]]
    others = [answer for answer in differing if answer not in lost and answer not in won]
    shown = _in_turns(lost, won, others)[:LARGEST]
    longest = max((len(answer[name]) for answer in shown for name in ("class", "dense", "finetuned")), default=0)
    columns = COLUMNS if longest <= NARROW else COLUMNS // 2
    rows = max(1, -(-len(shown) // columns))
    figure = Figure(figsize=(1.4 * COLUMNS, 0.6 + 1.9 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
        axes.set_anchor("W")
    for axes, answer in zip(grid.flat, shown, strict=False):
        axes.imshow(images[answer["image"]].transpose(1, 2, 0), "gray", vmin=0, vmax=255)
        axes.set_title(f"{_shortened(answer['class'])}\n\n", fontsize=9, loc="left", fontweight="bold")
        for height, name in ((1.15, "dense"), (1.02, "finetuned")):
            sign, colour = ("✓", BLUE) if answer[name] == answer["class"] else ("✗", VERMILION)
            said = f"{sign} {name}: {_shortened(answer[name])}"
            axes.text(0, height, said, transform=axes.transAxes, fontsize=8, color=colour, in_layout=False)
    figure.suptitle(
        f"dense and {model} differ on {len(differing):,} of {len(images):,} test images: {len(lost):,} are right "
        f"for dense alone, {len(won):,} for the other, {len(others):,} for neither"
        + (f"; {LARGEST} of them are shown" if len(shown) < len(differing) else ""),
        fontsize=10,
    )
    write(figure, path)


def _in_turns(*parts: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return what is in the parts, the first of each, then the second of each, and so on."""
    return [answer for answer in chain.from_iterable(zip_longest(*parts)) if answer is not None]


def _shortened(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
