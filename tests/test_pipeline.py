"""The whole pipeline in a temporary clone, as a user runs it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT, run, stages_run, write_params
from vtp.checkpoint import load
from vtp.times import LayerTimes, Times, load_times, save_times

pytestmark = pytest.mark.slow

METHODS = yaml.safe_load((ROOT / "configs" / "digits.yaml").read_text())["methods"]
ALL_STAGES = [
    name if "matrix" not in entry else f"{name}@{method}"
    for name, entry in yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].items()
    for method in (METHODS if "matrix" in entry else [None])
    if name != "source"
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
    assert metrics["test_accuracy_dense"] >= 0.97
    assert metrics["test_accuracy"] >= metrics["test_accuracy_dense"] - 0.01
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


def test_an_experiment_with_another_method_reruns_what_follows_it_alone(project: Path) -> None:
    run(project, "git", "add", "--all")
    run(project, "git", "commit", "--quiet", "--allow-empty", "--message", "default run")
    output = run(project, "dvc", "exp", "run", "-S", "decomp=qr", "--name", "with-qr").stdout
    assert stages_run(output) == ["finetune", "evaluate", "export", "report"]
    shown = json.loads(run(project, "dvc", "exp", "show", "--json").stdout)
    assert "with-qr" in json.dumps(shown)

    run(project, "python", "-m", "commands.publish")
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


def test_one_budget_is_kept_by_dims_and_ranks_together(project: Path) -> None:
    output = run(project, "dvc", "exp", "run", "-S", "decomp=svd", "-S", "compress.keep=0.2").stdout
    assert stages_run(output)[:2] == ["prune", "calibrate"]
    dense, slim, factorised = (
        layer_weights(project / "out" / stage / "model.safetensors")
        for stage in ("baseline", "prune", "decompose/svd")
    )
    assert 0.2 * dense < slim < 0.5 * dense
    assert 0.19 * dense < factorised <= 0.2 * dense
    report = json.loads((project / "out/prune/report.json").read_text())
    assert all(site["heads"] <= site["kept"] <= site["dims"] for site in report["budget"]["sites"])
    metrics = json.loads((project / "metrics.json").read_text())
    assert metrics["test_accuracy_factorised"] >= metrics["test_accuracy_dense"] - 0.05


def layer_weights(path: Path) -> int:
    """The weights of the layers inside the blocks: of matrices, and of mixes of pivots."""
    state = load(path).state_dict()
    return sum(
        tensor.numel()
        for name, tensor in state.items()
        if name.startswith("blocks.") and tensor.is_floating_point() and tensor.ndim == 2
    )


def test_one_budget_of_milliseconds_is_kept_by_the_times_that_were_measured(project: Path) -> None:
    """Of a model so small next to nothing saves time: `calibrate` is given other times than it measured."""
    budget = (" budget: parameters ", " budget: latency ")
    write_params(project, budget, (" keep:  ", " keep: 0.7  "), (" batch: 0 ", " batch: 16 "))
    run(project, "dvc", "repro", "calibrate")
    measured = load_times(project / "out/calibrate/times.json")
    assert measured is not None
    assert measured.batch == 16
    assert load_times(project / "out/prune/times.json") == measured
    layers = dict.fromkeys(measured.layers, LayerTimes(4.0, (16, 32), (1.0, 2.0)))
    times = Times(16, 10 + 4.0 * len(layers), layers, 20 + 4.0 * len(layers))
    (project / "out/calibrate/times.json").unlink()  # of DVC's cache
    save_times(times, project / "out/calibrate/times.json")
    run(project, "python", "-m", "stages.decompose", "svd")
    found = json.loads((project / "out/decompose/svd/report.json").read_text())["milliseconds"]
    assert found["before"] == times.total
    assert 0.7 * times.dense - 3 < found["predicted"] <= 0.7 * times.dense
