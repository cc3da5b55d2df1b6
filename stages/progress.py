"""How a training run is shown while it goes on: a bar on a terminal, else a line an epoch, and a line a minute."""

import sys
import time

from tqdm import tqdm

from vtp.training.loop import Watcher
from vtp.training.resume import Record

MINUTE = 60.0


def shown(stage: str, epochs: int, images: int) -> Watcher:
    """Return who shows a run of so many epochs of so many images."""
    return _Bar(stage, epochs, images) if sys.stderr.isatty() else _Lines(stage, epochs, images)


class _Bar:
    def __init__(self, stage: str, epochs: int, images: int) -> None:
        self.stage, self.epochs = stage, epochs
        self.bar = tqdm(total=epochs * images, desc=stage, unit=" images", unit_scale=True, mininterval=0.5)
        self.images = images

    def step(self, images: int) -> None:
        self.bar.update(images)

    def epoch(self, record: Record) -> None:
        epoch = int(record["epoch"])
        before = epoch * self.images - self.bar.n  # the epochs of before the run was resumed, which took no time
        self.bar.initial += before
        self.bar.n += before
        self.bar.set_description(f"{self.stage} {epoch}/{self.epochs}", refresh=False)
        self.bar.set_postfix(loss=f"{record['loss']:.4f}", validation=f"{record['validation_accuracy']:.4f}")
        if epoch == self.epochs:
            self.bar.close()


class _Lines:
    def __init__(self, stage: str, epochs: int, images: int) -> None:
        self.stage, self.epochs, self.whole = stage, epochs, images
        self.start = self.said = time.monotonic()
        self.images = self.shown = self.within = 0

    def step(self, images: int) -> None:
        self.images += images
        self.within += images
        if time.monotonic() - self.said >= MINUTE:
            self._say(f"{100 * self.within // self.whole} % of an epoch  {self._speed()}")

    def epoch(self, record: Record) -> None:
        self.shown += 1
        self.within = 0
        seconds, epoch = time.monotonic() - self.start, int(record["epoch"])
        self._say(
            f"epoch {epoch}/{self.epochs}  loss {record['loss']:.4f}  "
            f"validation accuracy {record['validation_accuracy']:.4f}  {self._speed()}  "
            f"{seconds / self.shown * (self.epochs - epoch):.0f} s left"
        )

    def _speed(self) -> str:
        return f"{self.images / (time.monotonic() - self.start):,.0f} images/s"

    def _say(self, words: str) -> None:
        self.said = time.monotonic()
        print(f"{self.stage}: {words}", flush=True)
