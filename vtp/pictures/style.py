"""What all pictures share: labels, and how a picture is written."""

from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vtp.files import replacing

matplotlib.rcParams["text.parse_math"] = False  # names are users': a $ in a class's begins no formula

MARKERS = "osD^v<>pP*"
MAP = "cividis"  # from dark to bright, the same to the colour-blind


def label(axes: Axes, title: str, x: str, y: str) -> None:
    """Name the axes and what they show, over a faint grid."""
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)


def write(figure: Figure, path: Path) -> None:
    """Write the figure as PNG, whole or not at all; equal figures give equal bytes."""
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png", metadata={"Software": None})
