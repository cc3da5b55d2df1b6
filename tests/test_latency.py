"""Seconds and memory of a forward pass, and the file that says what a run's models cost on this machine."""

import json
from pathlib import Path

import pytest
import torch

from stages.paths import model_path
from stages.timings import flat, timings_path, write_timings
from tests.models import both, random_model, small_spec
from tests.trained import PARAMS
from vtp.checkpoint import save
from vtp.latency import latency, peak_memory
from vtp.models import Model


def model_of(family: str) -> Model:
    return random_model(small_spec(family), seed=0, dtype=torch.float32)


def test_latency_is_of_so_many_runs_and_positive() -> None:
    found = latency(model_of("vit"), batch_size=3, repeats=5)
    assert 0 < found.low <= found.median <= found.high < 10
    assert found.repeats == 5


def test_latency_stops_in_time_after_three_runs_at_least() -> None:
    assert latency(model_of("vit"), batch_size=1, repeats=1000, seconds=0).repeats == 3
    assert latency(model_of("vit"), batch_size=1, repeats=2, seconds=9).repeats == 3


class Chain(Model):
    """Makes a tensor of the images' size in bytes ×4, three more of them, of which two live at a time."""

    writers = ()

    def embed(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        return images_BCHW.float()

    def run_block(self, index: int, x: torch.Tensor) -> torch.Tensor:
        return x * 2

    def classify(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        return x_BCHW.flatten(1)  # a view

    def initialise(self) -> None:
        pass


def test_peak_memory_is_that_of_the_tensors_alive_at_once() -> None:
    model = Chain(small_spec("vit"))
    model.blocks = torch.nn.ModuleList(torch.nn.Identity() for _ in range(3))
    assert peak_memory(model, 5) == 2 * 5 * 3 * 8 * 8 * 4


@both
def test_peak_memory_grows_with_the_images_and_counts_no_weight(family: str) -> None:
    model = model_of(family)
    assert 0 < peak_memory(model, 4) < peak_memory(model, 32) <= 8 * peak_memory(model, 4)
    for parameter in model.parameters():
        assert parameter.requires_grad  # measuring leaves the model as it was


def test_the_file_is_found_by_the_fine_tuned_checkpoint_and_has_figures_for_the_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    for stage in ("baseline", "finetune"):
        save(model_of("vit"), model_path(stage))
    write_timings({"dense": ("baseline", model_of("vit")), "finetuned": ("finetune", model_of("vit"))}, PARAMS)
    (path,) = Path(".vtp/timings/latency").glob("*.json")
    assert path == timings_path(Path(), path.stem)
    figures = flat(json.loads(path.read_text()))
    assert figures["latency/dense/file_bytes"] == model_path("baseline").stat().st_size
    for step in ("dense", "finetuned"):
        for size in (1, 16, 128):
            name = f"latency/{step}/batch_{size}"
            seconds = figures[f"{name}_ms"] / 1000
            assert figures[f"{name}_images_per_second"] == pytest.approx(size / seconds)
    printed = capsys.readouterr().out
    assert printed == path.with_suffix(".md").read_text()
    assert [line.split("|")[1].strip() for line in printed.splitlines()[-2:]] == ["dense", "finetuned"]
