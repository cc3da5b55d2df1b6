"""The picture of Table 2: a panel a model, a row a method; ours beside the paper's."""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.table2_report import METHODS, ROWS, Row
from vtp.colours import BLACK, BLUE, ORANGE, PALE
from vtp.pictures.style import label, write

COLUMNS = 2


def plot_table2(results: Mapping[str, Any], path: Path) -> None:
    """Draw what results/table2.json holds as a PNG at `path`."""
    names = [name for name in ROWS if name in results]
    lines = math.ceil(len(names) / COLUMNS)
    figure = Figure(figsize=(1.5 + 4.5 * COLUMNS, 0.6 + 3.6 * lines), layout="constrained")
    panels = figure.subplots(lines, COLUMNS, sharey=True, squeeze=False).flatten()
    for axes, name in zip(panels, names, strict=False):
        _draw(axes, ROWS[name], results[name]["cells"])
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    panels[0].set_yticks(range(len(METHODS)), METHODS.values())
    panels[0].invert_yaxis()
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=9)
    write(figure, path)


def _draw(axes: Axes, row: Row, cells: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Draw one model; `cells` are method -> the runs of each seed."""

    order = list(METHODS)
    shown = [place for place, name in enumerate(order) if name in cells]

    def percent(key: str) -> list[float]:
        return [100 * statistics.mean(run[key] for run in cells[order[place]]) for place in shown]

    dense = 100 * statistics.mean(run["test_accuracy_dense"] for run in next(iter(cells.values())))
    axes.axvline(dense, color=BLACK, linestyle="--", label="dense")
    axes.plot(
        percent("test_accuracy_factorised"), shown, "o", color=PALE, markersize=8, label="before fine-tuning"
    )
    axes.plot(percent("test_accuracy"), shown, "o", color=BLUE, markersize=8, label="fine-tuned")
    paper = {name: value for name, value in row.paper.items() if name in order}
    axes.plot(list(paper.values()), [order.index(name) for name in paper], "x", color=ORANGE, label="the paper")
    label(axes, f"{row.title}, at most half of the parameters", "test accuracy (%)", "")
