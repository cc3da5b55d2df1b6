"""What became of each unit, by each method. A row a unit: deep models make long pictures, not wide ones."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from vtp.colours import colour
from vtp.pictures.style import MAP, MARKERS, label, write

Entry = Mapping[str, Any]
Report = Sequence[Entry]  # a method's report of every unit
Figures = npt.NDArray[np.float64]
BRIGHT = 0.55  # of the colours' range: above it, black is read best


def plot_spectra(reports: Mapping[str, Report], path: Path) -> None:
    """Draw the error over the rank of each method, mean over the units: for svd, the tail of the spectrum.

    Args:
        reports: method -> its report of every unit, with `rank` and `curve`.
        path: of the picture.
    """
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for index, (method, entries) in enumerate(reports.items()):
        curves = [entry["curve"] for entry in entries if entry["rank"]]
        if curves:
            mean = np.mean(curves, axis=0)
            marks: dict[str, Any] = {"marker": MARKERS[index % len(MARKERS)], "markevery": (index % 10, 10)}
            axes.plot(np.linspace(0, 1, len(mean)), mean, color=colour(method), label=method, **marks)
    label(axes, "error left at each rank, mean over units", "rank / full rank", "relative error")
    if axes.lines:
        axes.legend(fontsize=8)
    write(figure, path)


def plot_errors(reports: Mapping[str, Report], path: Path) -> None:
    """Draw the error of each unit's output at the rank that it was given.

    Args:
        reports: method -> its report of every unit, with `unit`, `rank` and `output_error`.
        path: of the picture.
    """
    errors = 100 * _by_unit(reports, lambda entry: entry["output_error"] if entry["rank"] else np.nan)
    largest = float(np.nanmax(errors, initial=0)) or 1.0
    # One unit without an error would take all the colours.
    scale = LogNorm(largest / 100, largest, clip=True)
    texts = np.vectorize(lambda error: "–" if np.isnan(error) else f"{error:.1f}")(errors)
    _write_map(reports, errors, scale, texts, "relative error of the output (%, –: dense)", path)


def plot_ranks(reports: Mapping[str, Report], path: Path) -> None:
    """Draw the rank that each unit was given, over the share of its parameters that this keeps.

    Args:
        reports: method -> its report of every unit, with `unit`, `rank`, `parameters` and `parameters_dense`.
        path: of the picture.
    """
    kept = 100 * _by_unit(reports, lambda entry: entry["parameters"] / entry["parameters_dense"])
    ranks = _by_unit(reports, lambda entry: entry["rank"] or np.nan)
    texts = np.vectorize(lambda rank: "–" if np.isnan(rank) else f"{rank:.0f}")(ranks)
    _write_map(reports, kept, Normalize(0, 100), texts, "rank (–: dense), over parameters kept (%)", path)


def _write_map(
    reports: Mapping[str, Report],
    values: Figures,
    scale: Normalize,
    texts: npt.NDArray[np.str_],
    title: str,
    path: Path,
) -> None:
    """Draw values (unit × method) as colours with a text in each cell, and a line between blocks."""
    names = _units(reports)
    figure = Figure(figsize=(4 + 0.52 * len(reports), 1.2 + 0.19 * len(names)), layout="constrained")
    axes = figure.subplots()
    values = np.maximum(values, scale.vmin or 0)
    drawn = axes.imshow(values, MAP, scale, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        ink = "black" if np.isnan(value) or scale(value) > BRIGHT else "white"
        axes.text(column, row, str(texts[row, column]), ha="center", va="center", fontsize=7, color=ink)
    blocks = [name.split(".")[:2] for name in names]
    for row in range(1, len(names)):
        if blocks[row] != blocks[row - 1]:
            axes.axhline(row - 0.5, color="black", linewidth=0.8)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.set_xticks(range(len(reports)), list(reports), rotation=40, ha="left", rotation_mode="anchor", fontsize=8)
    axes.tick_params("x", top=True, labeltop=True, bottom=False, labelbottom=False)
    figure.colorbar(drawn, label=title, format=StrMethodFormatter("{x:g}"))
    write(figure, path)


def _units(reports: Mapping[str, Report]) -> list[str]:
    """Return the names of all units of all methods, in their order."""
    return list(dict.fromkeys(entry["unit"] for entries in reports.values() for entry in entries))


def _by_unit(reports: Mapping[str, Report], figure_of: Callable[[Entry], float]) -> Figures:
    """Return an array unit × method of a figure of each entry; NaN where a method has no such unit."""
    rows = {name: index for index, name in enumerate(_units(reports))}
    values = np.full((len(rows), len(reports)), np.nan)
    for column, entries in enumerate(reports.values()):
        for entry in entries:
            values[rows[entry["unit"]], column] = figure_of(entry)
    return values
