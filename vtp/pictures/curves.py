"""How training went."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from vtp.colours import BLUE, GREEN, VERMILION
from vtp.pictures.style import label, write

Record = Mapping[str, float]


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
    start, settled = 0.0, []
    for (stage, history), colour in zip(histories.items(), (BLUE, VERMILION, GREEN), strict=False):
        epochs = [start + record["epoch"] for record in history]
        loss.plot(
            epochs[1:],
            [record["loss"] for record in history[1:]],
            color=colour,
            label=f"{stage}, training objective",
        )
        validation = [record["validation_loss"] for record in history]
        loss.plot(epochs, validation, "--", color=colour, label=f"{stage}, validation")
        right = [100 * record["validation_accuracy"] for record in history]
        accuracy.plot(epochs, right, marker=".", markersize=3, color=colour, label=stage)
        accuracy.plot(
            start + chosen[stage], right[chosen[stage]], "o", color=colour, markersize=9, fillstyle="none"
        )
        settled += [right[chosen[stage]], *right[len(right) // 2 :]]
        start += history[-1]["epoch"]
    accuracy.plot([], [], "ko", markersize=9, fillstyle="none", label="chosen")
    label(loss, "loss (nats)", "epoch", "")
    label(accuracy, f"validation accuracy (n = {validation_images:,})", "epoch", "%")
    loss.legend(fontsize=8)
    accuracy.legend(fontsize=8, loc="lower right")
    # The rise of the first epochs may begin below: what comes later differs by less.
    margin = max(0.1, 0.5 * (max(settled) - min(settled)))
    accuracy.set_ylim(min(settled) - margin, min(max(settled) + margin, 100.5))
    write(figure, path)
