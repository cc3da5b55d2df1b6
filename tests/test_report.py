"""Tables that align and parse, and pictures that are the same every time."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vtp.colours import METHODS as COLOURS
from vtp.colours import colour
from vtp.params import METHOD_NAMES
from vtp.pictures import (
    plot_confusion,
    plot_curves,
    plot_differences,
    plot_errors,
    plot_kept,
    plot_methods,
    plot_ranks,
    plot_scores,
    plot_spectra,
)
from vtp.report import count, markdown_table, percent

CELL = st.text(alphabet="abc XYZ019.,%()-_×é", max_size=12).map(str.strip)


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[str], list[list[str]]]:
    columns = draw(st.integers(1, 6))
    row = st.lists(CELL, min_size=columns, max_size=columns)
    return draw(row), draw(st.lists(row, max_size=5))


def cells(line: str) -> list[str]:
    assert line.startswith("|")
    assert line.endswith("|")
    return [cell.strip() for cell in line[1:-1].split("|")]


@settings(max_examples=40)
@given(tables())
def test_a_table_is_aligned_and_reads_back(table: tuple[list[str], list[list[str]]]) -> None:
    header, rows = table
    text = markdown_table(header, rows)
    assert text.endswith("|\n")
    first, rule, *others = text.splitlines()
    assert cells(first) == header
    assert [cells(line) for line in others] == rows
    marks = cells(rule)
    assert set(marks[0]) == {"-"}  # the first column to the left, figures to the right
    assert all(set(mark[:-1]) == {"-"} and mark[-1] == ":" for mark in marks[1:])
    bars = [[i for i, sign in enumerate(line) if sign == "|"] for line in (first, rule, *others)]
    assert all(found == bars[0] for found in bars)


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="argument"):
        markdown_table(["a", "b"], [["1", "2", "3"]])


def test_figures_are_written_for_readers() -> None:
    assert percent(0.9712) == "97.12"
    assert percent(1.0) == "100.00"
    assert percent(0.0) == "0.00"
    assert percent(None) == "-"
    assert count(53990, 134975) == "53,990 (40 %)"
    assert count(7, 7) == "7 (100 %)"


def history(epochs: int) -> list[dict[str, float]]:
    before = {"epoch": 0, "validation_accuracy": 0.1, "validation_loss": 2.3}
    return [before] + [
        {"epoch": i, "loss": 2 / i, "validation_accuracy": i / epochs, "validation_loss": 2.1 / i}
        for i in range(1, epochs + 1)
    ]


METHODS = ("none", "svd", "lu")


def point(index: int) -> dict[str, float]:
    return {"accuracy": 0.9 + index / 100, "parameters": 1000.0 - 300 * (index > 0), "macs": 5000.0 - index}


def units(method: str, depth: int = 2) -> list[dict[str, Any]]:
    """Of a pair that `lu` alone has, one that stays dense, those without an error, and ordinary ones."""
    names = [f"blocks.{block}.{name}" for block in range(depth) for name in ("up", "down")]
    names += ["blocks.1.pair"] if method == "lu" else []
    return [
        {
            "unit": name,
            "rank": None if method == "none" or name == "blocks.0.up" else 3,
            "parameters": 60,
            "parameters_dense": 100,
            "output_error": 0.0 if "down" in name else 0.25,
            "curve": () if method == "none" else (1.0, 0.5, 0.0),
        }
        for name in names
    ]


def confused(classes: int) -> dict[str, dict[str, int]]:
    return {f"class {i}": {f"class {i}": 2, f"class {(i + 1) % classes}": 1} for i in range(classes)}


def differing(count: int) -> list[dict[str, Any]]:
    answers = (("a", "b"), ("b", "a"), ("b", "c"))
    return [
        {"image": i, "class": "a", "dense": answers[i % 3][0], "finetuned": answers[i % 3][1]}
        for i in range(count)
    ]


IMAGES = np.random.default_rng(0).integers(0, 256, (60, 3, 8, 8), np.uint8)

PLOTS: dict[str, Callable[[Path], None]] = {
    "curves": lambda path: plot_curves(
        {"baseline": history(4), "finetune": history(1)}, {"baseline": 3, "finetune": 0}, 143, path
    ),
    "methods": lambda path: plot_methods(
        {name: point(i) for i, name in enumerate(METHODS)},
        {"dense": 0.98, "pruned": 0.97},
        ("svd", 0.99),
        143,
        path,
    ),
    "methods, one alone": lambda path: plot_methods(
        {"svd": point(1)}, {"dense": 0.93, "pruned": 0.93}, ("svd", 0.93), 143, path
    ),
    "errors": lambda path: plot_errors({name: units(name) for name in METHODS}, path),
    "errors, none factorised": lambda path: plot_errors({"none": units("none")}, path),
    "spectra": lambda path: plot_spectra({name: units(name) for name in METHODS}, path),
    "spectra, none factorised": lambda path: plot_spectra({"none": units("none")}, path),
    "ranks": lambda path: plot_ranks({name: units(name) for name in METHODS}, path),
    "confusion": lambda path: plot_confusion({model: confused(4) for model in ("dense", "svd")}, 12, path),
    "confusion, prices": lambda path: plot_confusion({"dense": {"$10_$20": {"$10_$20": 3}}}, 3, path),
    "confusion, many classes": lambda path: plot_confusion({"dense": confused(120)}, 360, path),
    "confusion, long names": lambda path: plot_confusion(
        {"dense": {40 * letter: {40 * letter: 3} for letter in "abc"}}, 9, path
    ),
    "differences": lambda path: plot_differences(IMAGES, differing(11), "svd", path),
    "differences, more than are shown": lambda path: plot_differences(IMAGES, differing(60), "svd", path),
    "differences, long names": lambda path: plot_differences(
        IMAGES,
        [
            {name: 9 * str(value) if name != "image" else value for name, value in each.items()}
            for each in differing(9)
        ],
        "svd",
        path,
    ),
    "differences, none, grey": lambda path: plot_differences(IMAGES[:, :1], [], "svd", path),
    "scores": lambda path: plot_scores(
        {
            f"blocks.{i}.mlp": {
                "dims": 9,
                "kept": 6,
                "largest": 2.0,
                "thresholds": [[0.5], []][i % 2],
                "histogram": [3, 4, 0, 2],
                "histogram_kept": [0, 4, 0, 2],
            }
            for i in range(5)
        },
        path,
    ),
    "kept": lambda path: plot_kept({f"blocks.{i}.mlp": {"dims": 8, "kept": i} for i in range(9)}, path),
}


@pytest.mark.parametrize("name", PLOTS)
def test_a_plot_is_a_picture_and_the_same_bytes_again(name: str, tmp_path: Path) -> None:
    first, second = tmp_path / "first" / "plot.png", tmp_path / "second.png"
    PLOTS[name](first)
    PLOTS[name](second)
    assert first.read_bytes() == second.read_bytes()
    with Image.open(first) as picture:
        picture.load()
        assert picture.format == "PNG"
        assert min(picture.size) >= 200
        assert len(picture.convert("RGB").getcolors(2**24) or []) > 3  # something is drawn
    assert list(first.parent.iterdir()) == [first]


def test_a_deeper_model_makes_a_longer_picture_not_a_wider_one(tmp_path: Path) -> None:
    sizes = []
    for depth in (2, 36):
        plot_ranks({name: units(name, depth) for name in METHODS}, tmp_path / "plot.png")
        with Image.open(tmp_path / "plot.png") as picture:
            sizes.append(picture.size)
    (width, height), (deep_width, deep_height) = sizes
    assert deep_width == width
    assert deep_height - height >= 68 * 20  # pixels for the name of each further unit


def test_every_method_has_a_colour_of_its_own() -> None:
    assert len({colour(method) for method in METHOD_NAMES}) == len(METHOD_NAMES) <= len(COLOURS)
