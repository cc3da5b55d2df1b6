"""The whole pipeline in a temporary clone, as a user runs it."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from stages.compare import comparable
from stages.experiments import collect
from tests.conftest import ROOT, run, stages_run
from vtp.params import load_params

METHODS = yaml.safe_load((ROOT / "configs" / "digits.yaml").read_text())["methods"]
ALL_STAGES = [
    "fetch",
    "baseline",
    "sparsify",
    "prune",
    *(f"decompose@{method}" for method in METHODS),
    "finetune",
    "evaluate",
    "report",
]


@pytest.fixture(scope="module")
def project(make_clone: Callable[[str], Path]) -> Path:
    """A clone in which `dvc repro` has run the default parameters."""
    folder = make_clone("default")
    ran = stages_run(run(folder, "dvc", "repro").stdout)
    assert sorted(ran) == sorted(ALL_STAGES)
    return folder


def test_the_default_run_is_as_good_as_promised(project: Path) -> None:
    metrics = json.loads((project / "metrics.json").read_text())
    assert metrics["accuracy_dense"] >= 0.97
    assert metrics["accuracy"] >= metrics["accuracy_dense"] - 0.01
    assert metrics["parameters"] <= 0.5 * metrics["parameters_dense"]


def test_the_table_has_every_method(project: Path) -> None:
    rows = (project / "out/report/table.md").read_text().splitlines()
    named = [row.split("|")[1].strip() for row in rows if row.startswith("|")]
    assert named[0] == "method"
    assert named[2:] == METHODS


def test_a_second_repro_runs_nothing(project: Path) -> None:
    lock = (project / "dvc.lock").read_bytes()
    assert stages_run(run(project, "dvc", "repro").stdout) == []
    assert (project / "dvc.lock").read_bytes() == lock


@pytest.mark.parametrize("changed", ["vtp/decompositions/svd.py", "vtp/prune/vit.py", "stages/finetune.py"])
def test_results_of_other_code_are_not_compared(project: Path, changed: str) -> None:
    experiments, _ = collect(project)
    params = load_params(project / "params.yaml")
    assert "svd" in comparable(experiments, params, project)
    code = (project / changed).read_bytes()
    (project / changed).write_bytes(code + b"# changed\n")
    assert comparable(experiments, params, project) == {}
    (project / changed).write_bytes(code)


def test_results_of_stages_that_ran_other_code_are_not_compared(project: Path) -> None:
    """One stage alone with other code, but not one of a method that is no longer asked for."""
    experiments, _ = collect(project)
    params = load_params(project / "params.yaml")
    [found] = comparable(experiments, params, project).values()
    lock = yaml.safe_load(found.artifacts["dvc.lock"])
    lock["stages"]["decompose@lu_complete"] = {"deps": [{"path": "vtp/decompositions", "md5": "older.dir"}]}
    stale = replace(found, artifacts={"dvc.lock": yaml.safe_dump(lock).encode()})
    assert comparable([stale], params, project) == {"svd": stale}
    dependency = next(dep for dep in lock["stages"]["finetune"]["deps"] if dep["path"] == "vtp/train.py")
    dependency["md5"] = "older"
    other = replace(found, artifacts={"dvc.lock": yaml.safe_dump(lock).encode()})
    assert comparable([other], params, project) == {}


def test_an_experiment_with_another_method_reruns_what_follows_it_alone(project: Path) -> None:
    run(project, "git", "add", "--all")
    run(project, "git", "commit", "--quiet", "--allow-empty", "--message", "default run")
    output = run(project, "dvc", "exp", "run", "-S", "decomp=qr", "--name", "with-qr").stdout
    assert stages_run(output) == ["finetune", "evaluate", "report"]
    shown = json.loads(run(project, "dvc", "exp", "show", "--json").stdout)
    assert "with-qr" in json.dumps(shown)

    run(project, "python", "-m", "stages.publish")
    listed = run(project, "python", "-c", LIST_RUNS).stdout
    assert sorted(listed.split()) == ["qr", "svd"]


LIST_RUNS = """
from pathlib import Path
from mlflow import MlflowClient
from vtp.tracking import tracking_uri
client = MlflowClient(tracking_uri(Path(".").resolve()))
experiment = client.get_experiment_by_name("vtp")
print(*(run.data.params["decomp"] for run in client.search_runs([experiment.experiment_id])))
"""
