"""How a stage that is run by hand ends when something is wrong: in one line, or with a traceback if it is ours."""

import os
import subprocess
from pathlib import Path

import pytest

from stages.shared import run_stage
from tests.conftest import ROOT, write_params


def by_hand(folder: Path, stage: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a stage of this project on the files in `folder`."""
    return subprocess.run(
        ["python", "-m", *f"stages.{stage}".split()],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        text=True,
        capture_output=True,
        check=False,
    )


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
def test_a_stage_without_its_input_says_which_file_is_missing(stage: str, tmp_path: Path) -> None:
    write_params(tmp_path)
    done = by_hand(tmp_path, stage)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "no such file; run the stage that writes it first" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


@pytest.mark.parametrize("lock", [None, "stages: [\n", "<<<<<<< HEAD\n", "stages: {}\n", "text\n"])
def test_a_lock_that_cannot_be_read_does_not_hide_the_mistake(lock: str | None, tmp_path: Path) -> None:
    write_params(tmp_path, ("seed: 0 ", "seed: -1 "))
    if lock is not None:
        (tmp_path / "dvc.lock").write_text(lock)
    done = by_hand(tmp_path, "fetch", DVC_STAGE="fetch")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "error: params.yaml: seed is -1, but must be a whole number from 0 to 2147483647"
    ]


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
