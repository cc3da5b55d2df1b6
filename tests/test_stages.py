"""Stages run by hand and by DVC: what reruns, what resumes, and how mistakes end."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from stages.paths import SOURCE
from stages.source import main as take_fingerprints
from tests.conftest import TINY, run, stages_run, write_params

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tiny(make_clone: Callable[[str], Path]) -> Path:
    """A clone in which `dvc repro` has run two methods with few epochs, and so few ranks that training helps."""
    folder = make_clone("tiny")
    write_params(folder, *TINY, ("  keep: 0.3 ", "  keep: 0.1 "))
    run(folder, "dvc", "repro")
    return folder


def change(folder: Path, old: str, new: str) -> None:
    text = (folder / "params.yaml").read_text()
    assert text.count(old) == 1, old
    (folder / "params.yaml").write_text(text.replace(old, new))


def copy_code(source: Path, target: Path) -> None:
    """Copy what stages need that are run by hand."""
    for name in ("stages", "vtp"):
        shutil.copytree(source / name, target / name)
    shutil.copy(source / "params.yaml", target)


def hashes(folder: Path) -> dict[str, bytes]:
    files = [folder / "metrics.json", *(folder / "out").rglob("*")]
    return {str(path): path.read_bytes() for path in files if path.is_file()}


def test_a_change_reruns_what_it_touches(tiny: Path) -> None:
    change(tiny, "learning_rate: 0.0005", "learning_rate: 0.0004")
    assert stages_run(run(tiny, "dvc", "repro").stdout) == ["finetune", "evaluate", "export", "report"]
    change(tiny, "rate: 0.3 ", "rate: 0.4 ")
    ran = stages_run(run(tiny, "dvc", "repro").stdout)
    assert ran[:2] == ["prune", "calibrate"]
    assert sorted(ran[2:]) == ["decompose@qr", "decompose@svd", "evaluate", "export", "finetune", "report"]
    change(tiny, "threads: 1", "threads: 2")
    (tiny / "stages/progress.py").write_text((tiny / "stages/progress.py").read_text() + "# other words\n")
    assert stages_run(run(tiny, "dvc", "repro").stdout) == []
    change(tiny, "threads: 2", "threads: 1")


def test_a_mistake_under_dvc_is_one_sentence_and_loses_no_output(tiny: Path) -> None:
    before = hashes(tiny)
    params = (tiny / "params.yaml").read_text()
    change(tiny, "learning_rate: 0.0004", "learning_rate: -1")
    done = run(tiny, "dvc", "repro", check=False)
    (tiny / "params.yaml").write_text(params)
    assert done.returncode != 0
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert errors == [
        "error: params.yaml: finetune.learning_rate is -1, but must be a number above 0 and at most 10"
    ]
    assert "Traceback" not in done.stderr + done.stdout
    assert hashes(tiny) == before
    assert stages_run(run(tiny, "dvc", "repro").stdout) == []


def test_a_mistake_found_by_evaluate_loses_no_metrics(tiny: Path) -> None:
    before = hashes(tiny)
    change(tiny, "learning_rate: 0.0004", "learning_rate: -1")
    done = run(tiny, "dvc", "repro", "--single-item", "--force", "evaluate", check=False)
    change(tiny, "learning_rate: -1", "learning_rate: 0.0004")
    assert "error: params.yaml: finetune.learning_rate is -1" in done.stderr
    assert hashes(tiny) == before
    assert stages_run(run(tiny, "dvc", "repro").stdout) == []


def test_a_mistake_under_dvc_of_another_folder_loses_no_output(tiny: Path) -> None:
    before = hashes(tiny)
    change(tiny, "learning_rate: 0.0004", "learning_rate: -1")
    done = run(tiny / "docs", "dvc", "repro", "--single-item", "--force", "../dvc.yaml:finetune", check=False)
    change(tiny, "learning_rate: -1", "learning_rate: 0.0004")
    assert "error: params.yaml: finetune.learning_rate is -1" in done.stderr
    assert hashes(tiny) == before


def test_two_runs_end_in_the_same_bytes_and_a_killed_one_too(tiny: Path, tmp_path: Path) -> None:
    copy_code(tiny, tmp_path)
    (tmp_path / "out").mkdir()
    shutil.copy(tiny / "out/dataset.safetensors", tmp_path / "out")
    process = subprocess.Popen(
        ["python", "-m", "stages.baseline"], cwd=tmp_path, stdout=subprocess.PIPE, text=True, env=os.environ
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "epoch 2/" in line:
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not (tmp_path / "out/baseline").exists()
    resumed = run(tmp_path, "python", "-m", "stages.baseline").stdout
    assert "epoch 1/" not in resumed
    for name in ("model.safetensors", "history.json"):
        assert (tmp_path / "out/baseline" / name).read_bytes() == (tiny / "out/baseline" / name).read_bytes()


def test_inputs_that_do_not_fit_each_other_are_a_sentence(tiny: Path, tmp_path: Path) -> None:
    copy_code(tiny, tmp_path)
    change(tmp_path, "image_size: 8 ", "image_size: 16 ")
    for stage in ("baseline", "sparsify"):
        (tmp_path / f"out/{stage}").mkdir(parents=True)
        shutil.copy(tiny / f"out/{stage}/model.safetensors", tmp_path / f"out/{stage}")
    shutil.copy(tiny / "out/dataset.safetensors", tmp_path / "out")
    found = run(tmp_path, "python", "-m", "stages.baseline", check=False).stderr
    assert found == (
        "error: params.yaml: data.image_size is 16, but the images of out/dataset.safetensors have 8 pixels; "
        "run fetch again (dvc repro)\n"
    )
    run(tmp_path, "python", "-m", "stages.fetch")
    found = run(tmp_path, "python", "-m", "stages.prune", check=False).stderr
    assert found == (
        "error: out/baseline/model.safetensors: made for images of 1×8×8 and 10 classes, but "
        "out/dataset.safetensors has 1×16×16 and 10 classes; run the stages before this one again (dvc repro)\n"
    )


def test_the_wait_for_another_writer_ends_when_it_is_killed(tiny: Path, tmp_path: Path) -> None:
    copy_code(tiny, tmp_path)
    (tmp_path / "out").mkdir()
    shutil.copy(tiny / "out/dataset.safetensors", tmp_path / "out")
    command = ["python", "-m", "stages.baseline"]
    first = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    first.stdout.readline()  # it has finished an epoch, so it holds the lock
    first.send_signal(signal.SIGSTOP)
    second = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert second.stderr is not None
    assert "under way in another process" in second.stderr.readline()
    time.sleep(0.5)
    assert second.poll() is None
    first.kill()
    first.wait()
    first.stdout.close()
    assert second.wait() == 0
    second.stderr.close()
    expected = (tiny / "out/baseline/model.safetensors").read_bytes()
    assert (tmp_path / "out/baseline/model.safetensors").read_bytes() == expected


def test_a_path_that_another_dialect_of_yaml_takes_for_something_else_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("off", "1:30"):
        (tmp_path / name).mkdir()
        (tmp_path / "params.yaml").write_text(f"data:\n  path: {name}\n")
        take_fingerprints()
        assert json.loads(SOURCE.read_text())["fingerprint"]
