"""How the methods compare."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vtp.colours import BLACK, BLUE, ORANGE, PALE, VERMILION
from vtp.pictures.style import label, write

Record = Mapping[str, float]
COSTS = {"parameters": "parameters", "macs": "MACs"}


def plot_methods(
    methods: Mapping[str, Record], before: Record, finetuned: tuple[str, float], images: int, path: Path
) -> None:
    """Draw validation accuracy (fraction), parameters and MACs of each method, a row each, the best on top.

    Args:
        methods: method -> its `accuracy` before fine-tuning, `parameters` and `macs`.
        before: accuracy of the models `dense` and `pruned`, which are lines.
        finetuned: a method, and the accuracy of its model after fine-tuning.
        images: on how many the accuracies were taken.
        path: of the picture.
    """
    # Of equal accuracies that of fewer MACs is on top: rows are drawn from below.
    order = sorted(methods, key=lambda method: (methods[method]["accuracy"], -methods[method]["macs"]))
    figure = Figure(figsize=(11, 1.9 + 0.3 * len(order)), layout="constrained")
    accuracy, *costs = figure.subplots(1, 1 + len(COSTS), sharey=True, width_ratios=(2, 1, 1))
    for (step, value), style, colour in zip(before.items(), ("--", ":"), (BLACK, VERMILION), strict=True):
        accuracy.axvline(100 * value, color=colour, linestyle=style, label=f"{step} {100 * value:.2f} %")
    values = [100 * methods[method]["accuracy"] for method in order]
    row, tuned = order.index(finetuned[0]), 100 * finetuned[1]
    accuracy.plot([values[row], tuned], [row, row], color=PALE, zorder=1)
    _draw(accuracy, values, [f"{value:.2f}" for value in values], "factorised")
    accuracy.plot(tuned, row, "*", color=ORANGE, markersize=14, label=f"fine-tuned {tuned:.2f} %")
    accuracy.set_yticks(range(len(order)), order)
    accuracy.set_ylim(-0.6, len(order) - 0.4)
    label(accuracy, "accuracy", f"validation accuracy (%), one of {images:,} images: {100 / images:.2g}", "")
    for axes, (cost, title) in zip(costs, COSTS.items(), strict=True):
        values = [methods[method][cost] for method in order]
        _draw(axes, values, [f"{value:,.0f}" for value in values], title)
        axes.locator_params("x", nbins=3)
        axes.tick_params("x", labelsize=8)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        label(axes, title, "", "")
    figure.legend(*accuracy.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=9)
    write(figure, path)


def _draw(axes: Axes, values: Sequence[float], texts: Sequence[str], name: str) -> None:
    """Draw a point a row, with its value in words beside the axes, where nothing else is."""
    axes.plot(values, range(len(values)), "o", color=BLUE, markersize=8, label=name)
    axes.margins(x=0.1)
    for row, text in enumerate(texts):
        axes.text(1.02, row, text, transform=axes.get_yaxis_transform(), va="center", fontsize=8)
