"""How a training run is shown while it goes on: a bar on a terminal, else a line an epoch."""

import sys
import time

from tqdm import tqdm

from vtp.training.loop import Watcher
from vtp.training.resume import Record


def shown(stage: str, epochs: int, images: int) -> Watcher:
    """Return who shows a run of so many epochs of so many images."""
    return _Bar(stage, epochs, images) if sys.stderr.isatty() else _Lines(stage, epochs)


class _Bar:
    def __init__(self, stage: str, epochs: int, images: int) -> None:
        self.stage, self.epochs = stage, epochs
        self.bar = tqdm(total=epochs * images, desc=stage, unit=" images", unit_scale=True, mininterval=0.5)
        self.images = images

    def step(self, images: int) -> None:
        self.bar.update(images)

    def epoch(self, record: Record) -> None:
        epoch = int(record["epoch"])
        self.bar.update(
            epoch * self.images - self.bar.n
        )  # where a run is resumed, the first epochs were not shown
        self.bar.set_description(f"{self.stage} {epoch}/{self.epochs}")
        self.bar.set_postfix(loss=f"{record['loss']:.4f}", validation=f"{record['validation_accuracy']:.4f}")
        if epoch == self.epochs:
            self.bar.close()


class _Lines:
    def __init__(self, stage: str, epochs: int) -> None:
        self.stage, self.epochs, self.start = stage, epochs, time.monotonic()
        self.images = self.shown = 0

    def step(self, images: int) -> None:
        self.images += images

    def epoch(self, record: Record) -> None:
        self.shown += 1
        seconds, epoch = time.monotonic() - self.start, int(record["epoch"])
        print(
            f"{self.stage}: epoch {epoch}/{self.epochs}  loss {record['loss']:.4f}  "
            f"validation accuracy {record['validation_accuracy']:.4f}  {self.images / seconds:,.0f} images/s  "
            f"{seconds / self.shown * (self.epochs - epoch):.0f} s left",
            flush=True,
        )
