"""Tables and plots from plain data. Nothing here reads or writes any file but the pictures it is asked for."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vtp.files import replacing

Record = Mapping[str, float]
Row = Sequence[str]


def markdown_table(header: Row, rows: Sequence[Row]) -> str:
    """Return an aligned Markdown table that also reads well as plain text; the first column is left-aligned."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]

    def line(cells: Row) -> str:
        padded = [c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))]
        return "| " + " | ".join(padded) + " |"

    rule = "|" + "|".join("-" * (w + 2) if i == 0 else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|"
    return "\n".join([line(header), rule, *map(line, rows)]) + "\n"


def percent(fraction: float | None) -> str:
    """Return 0.9712 as `97.12`, in percent; None, where there is no figure, as a dash."""
    return "-" if fraction is None else f"{100 * fraction:.2f}"


def count(number: int, whole: int) -> str:
    """Return a count with the percentage that it is of `whole`: `53,990 (40 %)`."""
    return f"{number:,} ({number / whole:.0%})".replace("%", " %")


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
        epochs, colour = [start + record["epoch"] for record in history], f"C{index}"
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


def plot_methods(accuracies: Mapping[str, float], dense: float, pruned: float, path: Path) -> None:
    """Draw each method's validation accuracy before fine-tuning (fractions), beside the dense and the pruned."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    bars = axes.bar(list(accuracies), [100 * value for value in accuracies.values()], color="tab:blue")
    axes.bar_label(bars, fmt="%.1f", label_type="center", color="white", fontsize=8)
    axes.tick_params("x", rotation=30)
    axes.axhline(100 * dense, color="black", linestyle="--", label=f"dense {percent(dense)} %")
    axes.axhline(100 * pruned, color="tab:orange", linestyle=":", label=f"pruned {percent(pruned)} %")
    axes.set_ylim(0, 115)
    _label(axes, "validation accuracy of each method before fine-tuning", "method", "%")
    axes.legend(loc="upper right", ncols=2)
    _write(figure, path)


def plot_errors(reports: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """Draw, for each method, the error over the rank (the spectrum's tail for svd) and that of each unit.

    Args:
        reports: method -> its report of every unit, with `unit`, `rank`, `shape`, `curve` and `output_error`.
        path: of the picture.
    """
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    spectra, layers = figure.subplots(1, 2)
    for index, (method, entries) in enumerate(reports.items()):
        factorised = [entry for entry in entries if entry["rank"]]
        if not factorised:
            continue
        colour, style = f"C{index % 10}", "-" if index < 10 else ":"
        mean = [sum(values) / len(factorised) for values in zip(*(e["curve"] for e in factorised), strict=True)]
        spectra.plot([i / (len(mean) - 1) for i in range(len(mean))], mean, style, color=colour, label=method)
        errors = [entry["output_error"] if entry["rank"] else None for entry in entries]
        layers.plot(range(len(errors)), errors, style, marker=".", color=colour, label=method)
    names = [entry["unit"] for entry in next(iter(reports.values()))]
    step = max(1, len(names) // 18)
    layers.set_xticks(range(0, len(names), step), names[::step], rotation=75, ha="right", fontsize=6)
    _label(spectra, "error left at each rank, mean over layers", "rank / full rank", "relative error")
    _label(layers, "error of each layer's output at its rank", "", "relative error")
    spectra.legend(fontsize=8)
    _write(figure, path)


def plot_kept(sites: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draw how many dimensions of each site were kept (`kept`) of those it had (`dims`)."""
    figure = Figure(figsize=(8, 1 + 0.3 * len(sites)), layout="constrained")
    axes = figure.subplots()
    names = list(sites)
    axes.barh(names, [sites[name]["dims"] for name in names], color="lightgrey", label="before")
    axes.barh(names, [sites[name]["kept"] for name in names], color="tab:green", label="kept")
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
        axes.bar(left, entry["histogram"], width, align="edge", color="lightgrey", label="all")
        axes.bar(left, entry["histogram_kept"], width, align="edge", color="tab:green", label="kept")
        for threshold in entry["thresholds"]:
            axes.axvline(threshold, color="tab:red", linewidth=1, label="threshold")
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
