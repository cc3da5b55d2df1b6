"""What a training run says while it goes on, on a terminal and elsewhere."""

import io
import sys

import pytest

from stages import progress
from stages.progress import shown
from vtp.training.loop import Watcher


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that have passed, for the lines."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def train(watcher: Watcher, epochs: range) -> None:
    """Go through epochs of four batches of 25 images."""
    for epoch in epochs:
        for _ in range(4):
            watcher.step(25)
        watcher.epoch({"epoch": epoch, "loss": 1 / epoch, "validation_accuracy": 0.5})


def test_without_a_terminal_there_is_a_line_an_epoch(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    watcher = shown("baseline", 4, 100)
    clock[0] = 2.0
    train(watcher, range(1, 2))
    clock[0] = 8.0
    train(watcher, range(2, 3))
    assert capsys.readouterr().out == (
        "baseline: epoch 1/4  loss 1.0000  validation accuracy 0.5000  50 images/s  6 s left\n"
        "baseline: epoch 2/4  loss 0.5000  validation accuracy 0.5000  25 images/s  8 s left\n"
    )


def test_without_a_terminal_a_long_epoch_has_a_line_a_minute(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    watcher = shown("baseline", 4, 100)
    for clock[0] in (25.0, 50.0, 75.0, 100.0):
        watcher.step(25)
    assert capsys.readouterr().out == "baseline: 75 % of an epoch  1 images/s\n"


def test_on_a_terminal_the_bar_is_of_all_images_and_ends_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    train(shown("baseline", 3, 100), range(1, 4))
    last = sys.stderr.getvalue().rstrip().rpartition("\r")[2]
    assert last.startswith("baseline 3/3: 100%")
    assert "300/300" in last
    assert "loss=0.3333" in last


def test_the_epochs_of_before_a_run_was_resumed_do_not_count_as_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    watcher = shown("baseline", 1000, 100)
    train(watcher, range(999, 1001))
    assert (watcher.bar.initial, watcher.bar.n) == (99800, 100000)
