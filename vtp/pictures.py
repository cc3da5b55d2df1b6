"""Pictures from plain data, in one style whose colours the colour-blind can tell apart."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, PowerNorm
from matplotlib.figure import Figure

from vtp.files import replacing

Record = Mapping[str, float]
Report = Sequence[Mapping[str, Any]]  # a method's report of every unit
COLOURS = (  # matplotlib's style tableau-colorblind10, the greys last
    "#006BA4",
    "#FF800E",
    "#5F9ED1",
    "#C85200",
    "#A2C8EC",
    "#FFBC79",
    "#595959",
    "#898989",
    "#ABABAB",
    "#CFCFCF",
)
BLUE, ORANGE, RED, GREY = COLOURS[0], COLOURS[1], COLOURS[3], COLOURS[9]
COSTS = {"parameters": "parameters", "macs": "MACs"}
MAP = "cividis"
MARKERS = "osD^v<>pP*"
NEAR = 0.1  # of an axis: points as near as that are above each other
LINE = 0.045  # of an axis: the height of a line of text


def plot_curves(
    histories: Mapping[str, Sequence[Record]], chosen: Mapping[str, int], validation_images: int, path: Path
) -> None:
    """Draw loss and validation accuracy of each training stage, one after the other, over the epochs.

    Args:
        histories: stage -> a record of the state before the first epoch, and one of each epoch.
        chosen: stage -> the epoch whose state the stage gave.
        validation_images: on how many the validation figures were taken.
        path: of the picture.
    """
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    start = 0.0
    for index, (stage, history) in enumerate(histories.items()):
        epochs, colour = [start + record["epoch"] for record in history], COLOURS[index % 10]
        loss.plot(epochs[1:], [record["loss"] for record in history[1:]], color=colour, label=f"{stage}, training")
        validation = [record["validation_loss"] for record in history]
        loss.plot(epochs, validation, "--", color=colour, label=f"{stage}, validation")
        right = [100 * record["validation_accuracy"] for record in history]
        accuracy.plot(epochs, right, marker=".", markersize=3, color=colour, label=stage)
        accuracy.plot(
            start + chosen[stage], right[chosen[stage]], "o", color=colour, markersize=9, fillstyle="none"
        )
        start += history[-1]["epoch"]
    accuracy.plot([], [], "ko", markersize=9, fillstyle="none", label="chosen")
    _label(loss, "loss (nats)", "epoch", "")
    _label(accuracy, f"validation accuracy (n = {validation_images:,})", "epoch", "%")
    loss.legend(fontsize=8)
    accuracy.legend(fontsize=8)
    _write(figure, path)


def plot_methods(
    methods: Mapping[str, Record], before: Record, finetuned: tuple[str, Record], images: int, path: Path
) -> None:
    """Draw validation accuracy (fraction) against parameters and MACs of each method before fine-tuning.

    Args:
        methods: method -> its `accuracy`, `parameters` and `macs`.
        before: accuracy of the models `dense` and `pruned`, which are lines.
        finetuned: a method, and the same of its model after fine-tuning.
        images: on how many the accuracies were taken.
        path: of the picture.
    """
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    name, record = finetuned
    points = {**methods, f"{name}, fine-tuned": record}
    accuracies = [100 * value for value in (*before.values(), *(each["accuracy"] for each in points.values()))]
    margin = max(0.5, 0.2 * (max(accuracies) - min(accuracies)))
    for axes, cost in zip(figure.subplots(1, 2, sharey=True), COSTS, strict=True):
        for (step, accuracy), style, colour in zip(before.items(), ("--", ":"), ("black", RED), strict=True):
            axes.axhline(100 * accuracy, color=colour, linestyle=style, label=f"{step} {100 * accuracy:.2f} %")
        costs = {label: each[cost] for label, each in points.items()}
        wide = 0.25 * (max(costs.values()) - min(costs.values())) or 1
        axes.set_xlim(min(costs.values()) - 0.4 * wide, max(costs.values()) + 1.6 * wide)
        axes.set_ylim(min(accuracies) - margin, max(accuracies) + margin)
        for label, each in points.items():
            marker, colour = ("*", ORANGE) if label not in methods else ("o", BLUE)
            axes.plot(each[cost], 100 * each["accuracy"], marker, color=colour, markersize=9)
        _name_points(axes, {label: (costs[label], 100 * points[label]["accuracy"]) for label in points})
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        _label(axes, f"accuracy by {COSTS[cost]}", COSTS[cost], "")
        axes.tick_params("x", rotation=20)
    figure.axes[0].set_ylabel(f"validation accuracy (%, n = {images:,})")
    figure.axes[0].legend(fontsize=8, loc="lower right")
    figure.suptitle("each method before fine-tuning, and the one that was fine-tuned", fontsize=11)
    _write(figure, path)


def _name_points(axes: Axes, points: Mapping[str, tuple[float, float]]) -> None:
    """Write their names to the right of points; of those above each other, each name has a place of its own."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    columns: dict[int, dict[float, list[str]]] = {}
    for name, (x, y) in sorted(points.items(), key=lambda point: point[1][1]):
        column = columns.setdefault(round((x - left) / (right - left) / NEAR), {})
        column.setdefault(round(y, 3), []).append(name)
    for column in columns.values():
        taken = bottom
        edge = max(points[name][0] for names in column.values() for name in names) + 0.03 * (right - left)
        for y, names in column.items():
            text = fill(", ".join(names), 30)
            height = LINE * (text.count("\n") + 1) * (top - bottom)
            place = max(y, taken + height / 2)
            taken = place + height / 2
            look: dict[str, Any] = {
                "arrowprops": {"arrowstyle": "-", "color": GREY},
                "bbox": {"facecolor": "white", "edgecolor": "none", "pad": 0.5},
            }
            axes.annotate(text, (points[names[0]][0], y), (edge, place), va="center", fontsize=8, **look)


def plot_errors(reports: Mapping[str, Report], path: Path) -> None:
    """Draw the error over the rank of each method (the spectrum's tail for svd), and the error of each unit.

    Args:
        reports: method -> its report of every unit, with `unit`, `rank`, `curve` and `output_error`.
        path: of the picture.
    """
    figure, (spectra, layers) = _beside_units(reports, left=5)
    for index, (method, entries) in enumerate(reports.items()):
        curves = [entry["curve"] for entry in entries if entry["rank"]]
        if curves:
            mean = np.mean(curves, axis=0)
            style: dict[str, Any] = {"marker": MARKERS[index % 10], "markevery": (index, 10), "markersize": 4}
            ranks = np.linspace(0, 1, len(mean))
            spectra.plot(ranks, mean, color=COLOURS[index % 10], label=method, **style)
    _label(spectra, "error left at each rank, mean over units", "rank / full rank", "relative error")
    if spectra.lines:
        spectra.legend(fontsize=8)
    errors = _by_unit(reports, lambda entry: entry["output_error"] if entry["rank"] else np.nan)
    if (largest := np.nanmax(errors, initial=0)) > 0:
        scale = LogNorm(largest / 1000, largest, clip=True)  # one unit without an error would take all the colours
        drawn = layers.imshow(
            np.where(np.isnan(errors), np.nan, errors + largest * 1e-9), MAP, scale, aspect="auto"
        )
        figure.colorbar(drawn, label="relative error of the output", extend="min")
    layers.set_title("error of each unit at its rank (white: dense)")
    _write(figure, path)


def plot_ranks(reports: Mapping[str, Report], path: Path) -> None:
    """Draw the rank that each unit was given, over the share of its parameters that this keeps.

    Args:
        reports: method -> its report of every unit, with `unit`, `rank`, `parameters` and `parameters_dense`.
        path: of the picture.
    """
    figure, (axes,) = _beside_units(reports)
    kept = _by_unit(reports, lambda entry: entry["parameters"] / entry["parameters_dense"])
    ranks = _by_unit(reports, lambda entry: entry["rank"] or np.nan)
    drawn = axes.imshow(kept, MAP, vmin=0, vmax=1, aspect="auto")
    figure.colorbar(drawn, label="parameters kept")
    for (row, column), rank in np.ndenumerate(ranks):
        colour = "black" if kept[row, column] > 0.6 else "white"
        text = "–" if np.isnan(rank) else f"{rank:.0f}"
        axes.text(column, row, text, ha="center", va="center", fontsize=6, color=colour)
    axes.set_title("rank of each unit (–: dense)")
    _write(figure, path)


def plot_confusion(confusions: Mapping[str, Mapping[str, Mapping[str, int]]], images: int, path: Path) -> None:
    """Draw which class the images of each class were taken for, one map a model.

    Args:
        confusions: model -> class -> the class it was taken for -> how many images.
        images: how many there were.
        path: of the picture.
    """
    names = list(next(iter(confusions.values())))
    size = min(10.0, max(4.0, 0.35 * len(names)))
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
        axes.set_xticks(range(0, len(names), step), names[::step], rotation=90, fontsize=7)
        axes.set_yticks(range(0, len(names), step), names[::step], fontsize=7)
        right = np.trace(matrix) / max(matrix.sum(), 1)
        axes.set(title=f"{model}: {100 * right:.2f} % right", xlabel="taken for", ylabel="class")
    figure.colorbar(drawn, ax=figure.axes, label="share of the class", shrink=0.8)
    figure.suptitle(f"validation images, n = {images:,}", fontsize=11)
    _write(figure, path)


def _beside_units(reports: Mapping[str, Report], left: float = 0) -> tuple[Figure, Sequence[Axes]]:
    """Return a figure and its axes: one `left` inches wide, if that is not 0, and one for a map method × unit."""
    units = _units(reports)
    wide = 2.2 + 0.2 * max(len(units), 12)
    figure = Figure(figsize=(left + wide, 2.6 + 0.26 * len(reports)), layout="constrained")
    axes = figure.subplots(1, 2, width_ratios=(left, wide)) if left else [figure.subplots()]
    axes[-1].set_yticks(range(len(reports)), list(reports), fontsize=8)
    axes[-1].set_xticks(range(len(units)), units, rotation=90, fontsize=6)
    return figure, axes


def _units(reports: Mapping[str, Report]) -> list[str]:
    """Return the names of all units of all methods, in their order."""
    return list(dict.fromkeys(entry["unit"] for entries in reports.values() for entry in entries))


def _by_unit(reports: Mapping[str, Report], figure_of: Callable[[Mapping[str, Any]], float]) -> Any:
    """Return an array method × unit of a figure of each entry; NaN where a method has no such unit."""
    columns = {name: index for index, name in enumerate(_units(reports))}
    values = np.full((len(reports), len(columns)), np.nan)
    for row, entries in enumerate(reports.values()):
        for entry in entries:
            values[row, columns[entry["unit"]]] = figure_of(entry)
    return values


def plot_kept(sites: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draw how many dimensions of each site were kept (`kept`) of those it had (`dims`)."""
    figure = Figure(figsize=(8, 1 + 0.3 * len(sites)), layout="constrained")
    axes = figure.subplots()
    names = list(sites)
    axes.barh(names, [sites[name]["dims"] for name in names], color=GREY, label="before")
    axes.barh(names, [sites[name]["kept"] for name in names], color=BLUE, label="kept")
    axes.invert_yaxis()
    _label(axes, "dimensions kept by pruning", "dimensions", "")
    axes.legend()
    _write(figure, path)


def plot_scores(sites: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draw the histogram of each site's learned scores, those kept over all, with the thresholds between.

    Args:
        sites: site -> `histogram` and `histogram_kept` (counts in equal bins from 0 to `largest`) and
            `thresholds`, none where nothing went.
        path: of the picture.
    """
    columns = min(4, len(sites))
    rows = -(-len(sites) // columns)
    figure = Figure(figsize=(3 * columns, 0.6 + 1.5 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True)
    for axes in grid.flat[len(sites) :]:
        axes.set_axis_off()
    for axes, (site, entry) in zip(grid.flat, sites.items(), strict=False):
        width = entry["largest"] / len(entry["histogram"])
        left = [i * width for i in range(len(entry["histogram"]))]
        axes.bar(left, entry["histogram"], width, align="edge", color=GREY, label="all")
        axes.bar(left, entry["histogram_kept"], width, align="edge", color=BLUE, label="kept")
        for threshold in entry["thresholds"]:
            axes.axvline(threshold, color=RED, linewidth=1, label="threshold")
        axes.set_title(f"{site}: {entry['kept']} of {entry['dims']}", fontsize=8)
        axes.tick_params(labelsize=7)
    figure.suptitle("importance scores |a| learned, and kept by pruning", fontsize=10)
    legend = {
        label: handle
        for axes in grid.flat
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(legend.values(), legend.keys(), loc="outside lower center", ncols=3, fontsize=8)
    _write(figure, path)


def _label(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)


def _write(figure: Figure, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png", metadata={"Software": None})
