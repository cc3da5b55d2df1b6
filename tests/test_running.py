"""When trainings began and ended, and which are under way."""

import hashlib
import time
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st

from commands.running import trainings
from stages.paths import PARAMS, model_path
from stages.timings import note_training, span, training_path, training_times
from stages.training import LOCK, STATE, resume_folder
from tests.conftest import write_params
from vtp.files import write_json
from vtp.sealed import write_sealed
from vtp.training.resume import KIND

HISTORY = [{"epoch": 0, "validation_accuracy": 0.5}, {"epoch": 1, "loss": 0.25, "validation_accuracy": 0.75}]


def unfinished(root: Path, name: str) -> Path:
    """Leave what a training of that name leaves after an epoch; return its folder."""
    folder = resume_folder(root) / name
    folder.mkdir(parents=True)
    write_params(folder)
    write_sealed(folder / STATE, KIND, [HISTORY, 0.75], {})
    return folder


def test_a_training_is_under_way_as_long_as_its_lock_is_held(tmp_path: Path) -> None:
    folder = unfinished(tmp_path, "baseline-0123456789abcdef")
    assert trainings(tmp_path) == []
    with FileLock(folder / LOCK):
        (found,) = trainings(tmp_path)
    assert (found.stage, found.history) == ("baseline", HISTORY)
    assert found.params["baseline.epochs"] == 40
    assert found.start == (folder / PARAMS).stat().st_mtime
    assert trainings(tmp_path) == []


@pytest.mark.parametrize("lost", [STATE, str(PARAMS)])
def test_a_training_that_has_no_epoch_yet_or_cannot_be_read_is_left_out(lost: str, tmp_path: Path) -> None:
    folder = unfinished(tmp_path, "baseline-1")
    (folder / lost).unlink()
    with FileLock(folder / LOCK):
        assert trainings(tmp_path) == []


def test_looking_does_not_take_the_lock_from_a_training(tmp_path: Path) -> None:
    folder = unfinished(tmp_path, "baseline-1")
    trainings(tmp_path)
    FileLock(folder / LOCK).acquire(timeout=0)


def test_times_are_found_by_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    model_path("finetune").parent.mkdir(parents=True)
    model_path("finetune").write_bytes(b"a model")
    before = time.time()
    note_training("finetune", before - 100)
    md5 = hashlib.md5(b"a model").hexdigest()
    start, end = training_times(tmp_path, {"finetune": md5, "baseline": "another"})["finetune"]
    assert start == before - 100
    assert before <= end <= time.time()
    assert training_times(tmp_path, {"finetune": "another"}) == {}


def note(root: Path, stage: str, name: str, start: float, end: float) -> None:
    write_json(training_path(root, stage, name), {"start": start, "end": end})


def test_a_run_begins_with_its_first_training_and_not_with_those_of_the_run_before(tmp_path: Path) -> None:
    note(tmp_path, "baseline", "a", 0, 100)
    note(tmp_path, "sparsify", "a", 101, 120)
    note(tmp_path, "finetune", "a", 150, 180)  # a run of all stages
    note(tmp_path, "finetune", "b", 200, 230)  # then one that changes decomp
    note(tmp_path, "sparsify", "c", 300, 320)  # then one that changes sparsify
    note(tmp_path, "finetune", "c", 350, 380)

    def found(baseline: str, sparsify: str, finetune: str) -> tuple[float, float] | None:
        names = {"baseline": baseline, "sparsify": sparsify, "finetune": finetune}
        return span(tmp_path, training_times(tmp_path, names))

    assert found("a", "a", "a") == (0, 180)
    assert found("a", "a", "b") == (200, 230)
    assert found("a", "c", "c") == (300, 380)
    assert found("a", "a", "elsewhere") is None


@given(st.lists(st.integers(1, 50), min_size=1, max_size=6))
def test_runs_one_after_the_other_do_not_overlap(lengths: list[int]) -> None:
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        root, now, spans = Path(folder), 0.0, []
        for index, length in enumerate(lengths):
            for stage in ("sparsify", "finetune"):
                note(root, stage, str(index), now, now + length)
                now += length
        for index in range(len(lengths)):
            spans.append(span(root, training_times(root, {"sparsify": str(index), "finetune": str(index)})))
    assert sum(end - start for start, end in filter(None, spans)) == now
