"""What pruning did at each site."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from vtp.colours import BLUE, PALE, VERMILION
from vtp.pictures.style import label, write

Sites = Mapping[str, Mapping[str, Any]]


def plot_kept(sites: Sites, path: Path) -> None:
    """Draw how many dimensions of each site were kept (`kept`) of those it had (`dims`)."""
    figure = Figure(figsize=(8, 1.4 + 0.22 * len(sites)), layout="constrained")
    axes = figure.subplots()
    names = list(sites)
    axes.barh(names, [sites[name]["dims"] for name in names], color=PALE, label="before")
    axes.barh(names, [sites[name]["kept"] for name in names], color=BLUE, label="kept")
    for row, site in enumerate(sites.values()):
        figures = f"{site['kept']:,} of {site['dims']:,}"
        axes.text(1.01, row, figures, transform=axes.get_yaxis_transform(), va="center", fontsize=8)
    axes.invert_yaxis()
    axes.margins(y=0.01)
    axes.tick_params("y", labelsize=8)
    label(axes, "dimensions kept by pruning", "dimensions", "")
    figure.legend(loc="outside lower center", ncols=2)
    write(figure, path)


def plot_scores(sites: Sites, path: Path) -> None:
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
        axes.bar(left, entry["histogram"], width, align="edge", color=PALE, label="all")
        axes.bar(left, entry["histogram_kept"], width, align="edge", color=BLUE, label="kept")
        for threshold in entry["thresholds"]:
            axes.axvline(threshold, color=VERMILION, linewidth=1, label="threshold")
        axes.set_title(f"{site}: {entry['kept']} of {entry['dims']}", fontsize=8)
        axes.tick_params(labelsize=7)
    figure.suptitle("importance scores |a| learned, and kept by their thresholds", fontsize=10)
    legend = {
        label: handle
        for axes in grid.flat
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(legend.values(), legend.keys(), loc="outside lower center", ncols=3, fontsize=8)
    write(figure, path)
