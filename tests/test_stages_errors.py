"""How a stage ends when something is wrong: in one line, or with a traceback if it is ours."""

import os
import subprocess
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

from stages.shared import run_stage
from tests.conftest import ROOT, write_params


@pytest.fixture
def refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[str], list[str]]:
    """Return a function that runs a stage, which must fail, in `tmp_path`; it returns the lines of stderr."""
    monkeypatch.chdir(tmp_path)

    def run(stage: str) -> list[str]:
        monkeypatch.setattr("sys.argv", stage.split())
        with pytest.raises(SystemExit, match="1"):
            run_stage(import_module(f"stages.{stage.split()[0]}").main)
        return capsys.readouterr().err.splitlines()

    return run


def test_a_stage_run_by_hand_ends_like_one_in_this_process(tmp_path: Path) -> None:
    write_params(tmp_path)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = ["python", "-m", "stages.decompose", "svd"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, text=True, capture_output=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.endswith("no such file; run the stage that writes it first (dvc repro)\n")


@pytest.mark.parametrize(
    "stage",
    [
        "baseline",
        "sparsify",
        "prune",
        "calibrate",
        "decompose svd",
        "finetune",
        "evaluate",
        "export",
        "report",
    ],
)
def test_a_stage_without_its_input_says_which_file_is_missing(
    stage: str, tmp_path: Path, refused: Callable[[str], list[str]]
) -> None:
    write_params(tmp_path)
    (line,) = refused(stage)
    assert line.startswith("error: ")
    assert "no such file; run the stage that writes it first" in line
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


@pytest.mark.parametrize("lock", [None, "stages: [\n", "<<<<<<< HEAD\n", "stages: {}\n", "text\n"])
def test_a_lock_that_cannot_be_read_does_not_hide_the_mistake(
    lock: str | None, tmp_path: Path, refused: Callable[[str], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_params(tmp_path, ("seed: 0 ", "seed: -1 "))
    if lock is not None:
        (tmp_path / "dvc.lock").write_text(lock)
    monkeypatch.setenv("DVC_STAGE", "fetch")
    assert refused("fetch") == ["error: params.yaml: seed is -1, but must be a whole number from 0 to 2147483647"]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    ],
)
def test_too_little_memory_is_a_sentence(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise error

    with pytest.raises(SystemExit, match="1"):
        run_stage(main)
    assert capsys.readouterr().err.startswith("error: there is not enough memory; try smaller")


def test_a_defect_of_the_program_keeps_its_traceback() -> None:
    def main() -> None:
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        run_stage(main)


def test_a_file_that_cannot_be_read_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="1"):
        run_stage(lambda: print(Path("/proc").read_bytes()))
    assert capsys.readouterr().err == "error: /proc: cannot be read or written (Is a directory)\n"
