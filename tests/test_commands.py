"""What people start that is no stage, for real, in a clone with a short run of two methods."""

import importlib
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from commands import show
from commands.compare import comparable
from commands.experiments import code_of_workspace, collect
from tests.conftest import TINY, run, write_params
from vtp.errors import UserError
from vtp.params import load_params

pytestmark = pytest.mark.slow

SHORT = (*TINY[:1], ("baseline:\n  epochs: 40", "baseline:\n  epochs: 1"), *TINY[2:])


@pytest.fixture(scope="module")
def project(make_clone: Callable[[str], Path]) -> Path:
    """A clone whose HEAD holds a finished run of svd, whose workspace asks for qr."""
    folder = make_clone("commands")
    write_params(folder, *SHORT)
    run(folder, "dvc", "repro")
    run(folder, "git", "commit", "--quiet", "--all", "--message", "run")
    change(folder / "params.yaml", "decomp: svd", "decomp: qr ")
    return folder


@pytest.fixture(scope="module")
def compared(project: Path) -> subprocess.CompletedProcess[str]:
    """What `compare` says when it is started for the first time."""
    return run(project, "python", "-m", "commands.compare")


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1, old
    path.write_text(text.replace(old, new))


def head(project: Path) -> str:
    return run(project, "git", "rev-parse", "HEAD").stdout.strip()


def rows(table: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("|")
    ]


def test_compare_runs_the_methods_that_are_missing_and_no_other(
    project: Path, compared: subprocess.CompletedProcess[str]
) -> None:
    assert re.findall("dvc exp run --temp -S (.*)", compared.stderr) == ["decomp=qr"]
    header, _, *found = rows(compared.stdout)
    assert [row[header.index("method")] for row in found] == ["svd", "qr"]
    assert found[0][0] == head(project)[:7]
    again = run(project, "python", "-m", "commands.compare")
    assert again.stdout == compared.stdout
    assert "-S decomp=" not in again.stderr


def test_compare_says_in_one_line_what_the_workspace_has_changed(
    compared: subprocess.CompletedProcess[str],
) -> None:
    [line] = [line for line in compared.stderr.splitlines() if "HEAD" in line]
    assert line == (
        "compare: params.yaml is not that of HEAD: decomp svd -> qr; `git checkout params.yaml` goes back, "
        "and `dvc exp run --temp` leaves the file alone"
    )


def test_show_has_the_figures_of_every_experiment(
    project: Path,
    compared: subprocess.CompletedProcess[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(project)
    show.main()
    shown = capsys.readouterr().out
    assert rows(shown) == rows(compared.stdout)
    metrics = json.loads((project / "metrics.json").read_text())
    assert f"n = {metrics['test_images']} images" in shown
    assert f"n = {metrics['validation_images']} images" in shown
    svd = dict(zip(rows(shown)[0], rows(shown)[2], strict=True))
    assert svd["final"] == f"{100 * metrics['test_accuracy']:.2f}"
    assert svd["val"] == f"{100 * metrics['validation_accuracy']:.2f}"


@pytest.mark.parametrize("changed", ["vtp/decompositions/svd.py", "stages/finetune.py"])
def test_results_of_other_code_are_not_compared(project: Path, changed: str) -> None:
    experiments, _ = collect(project)
    params = load_params(project / "params.yaml")
    assert "svd" in comparable(experiments, params, code_of_workspace(project))
    code = (project / changed).read_bytes()
    (project / changed).write_bytes(code + b"# changed\n")
    assert comparable(experiments, params, code_of_workspace(project)) == {}
    (project / changed).write_bytes(code)


@pytest.mark.usefixtures("compared")
def test_an_experiment_has_what_it_exported_where_only_the_cache_has_it(project: Path) -> None:
    exported = {experiment.params["decomp"]: experiment.exported for experiment in collect(project)[0]}
    assert all("examples/0.png" in files for files in exported.values())
    assert exported["svd"]["model.onnx"] == (project / "out/export/model.onnx").read_bytes()
    assert exported["qr"]["model.onnx"] != exported["svd"]["model.onnx"]


def make_experiment(project: Path, name: str, edit: Callable[[], None]) -> None:
    """Make what `edit` changes in the workspace an experiment on HEAD, and take it back."""
    base = head(project)
    params = (project / "params.yaml").read_bytes()
    run(project, "git", "checkout", "--quiet", "params.yaml")
    edit()
    run(project, "git", "commit", "--quiet", "--all", "--message", name)
    run(project, "git", "update-ref", f"refs/exps/{base[:2]}/{base[2:]}/{name}", "HEAD")
    run(project, "git", "reset", "--quiet", "--hard", base)
    (project / "params.yaml").write_bytes(params)


def test_an_experiment_that_is_not_finished_or_of_another_version_is_left_out_with_the_reason(
    project: Path,
) -> None:
    def locked(edit: Callable[[dict[str, Any]], object]) -> Callable[[], None]:
        def rewrite() -> None:
            lock = yaml.safe_load((project / "dvc.lock").read_text())
            edit(lock["stages"])
            (project / "dvc.lock").write_text(yaml.safe_dump(lock))

        return rewrite

    def other(stages: dict[str, Any], path: str, *names: str) -> None:
        for name in names:
            for item in (*stages[name]["deps"], *stages[name]["outs"]):
                if item["path"] == path:
                    item["md5"] = "0" * 32

    params, metrics = project / "params.yaml", project / "metrics.json"
    history = "out/finetune/history.json"
    edits_and_reasons = {
        "half": (locked(lambda stages: stages.pop("report")), "its stage report has not run"),
        "rate": (lambda: change(params, "rate: 0.3 ", "rate: 0.4 "), "its stage prune has run with another prune"),
        "data": (
            locked(lambda stages: other(stages, "out/dataset.safetensors", "sparsify")),
            "its stage sparsify has run with another out/dataset.safetensors",
        ),
        "hand": (
            lambda: change(metrics, '"test_images": ', '"test_images": 1'),
            "its stage evaluate has written another metrics.json",
        ),
        "gone": (
            locked(lambda stages: other(stages, history, "finetune", "report")),
            f"{history} is neither there nor in the cache",
        ),
        "older": (
            lambda: change(params, "  threads: 1", "  thread: 1"),
            "params.yaml: unknown key machine.thread; allowed here are instructions, device, threads",
        ),
        "none": (
            lambda: (project / "dvc.yaml").write_text("stages: {}\n"),
            "out/report is neither there nor in the cache",
        ),
        "text": (
            lambda: (project / "dvc.yaml").write_text("stages: [\n"),
            "unable to read: 'dvc.yaml', YAML file structure is corrupted",
        ),
    }
    # DVC leaves the stages of methods that are no longer asked for in the lock.
    make_experiment(project, "fine", locked(lambda stages: stages.update({"decompose@lu": {"cmd": "older"}})))
    for name, (edit, _) in edits_and_reasons.items():
        make_experiment(project, name, edit)
    found, left_out = collect(project)
    run(project, "dvc", "exp", "remove", "fine", *edits_and_reasons)
    assert left_out == {name: reason for name, (_, reason) in edits_and_reasons.items()}
    assert "fine" in [experiment.name for experiment in found]


@pytest.mark.parametrize("command", ["compare", "show", "publish", "ui"])
def test_a_folder_that_is_no_repository_is_one_sentence(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_params(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^the experiments cannot be read: .*not inside of a DVC repository"):
        importlib.import_module(f"commands.{command}").main()
