"""What MLflow's pages open on, and runs of trainings under way, on real sqlite stores."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from tests.tracking import QR, SVD, client, named, runs
from vtp.tracking import (
    COLUMNS,
    EXPERIMENT,
    Training,
    charts_link,
    publish,
    publish_running,
    table_link,
)

# MLflow's own tables use what sqlalchemy has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")


def test_the_links_name_experiment_and_runs(store: Path) -> None:
    publish([SVD, QR], store)
    experiment = client(store).get_experiment_by_name(EXPERIMENT)
    link = table_link(store, "http://127.0.0.1:5000")
    assert link.startswith(f"http://127.0.0.1:5000/#/experiments/{experiment.experiment_id}/runs?")
    assert view(store, link)["selectedColumns"] == list(COLUMNS)


def view(store: Path, link: str) -> dict[str, Any]:
    """What the UI finds under the name in the link."""
    key = parse_qs(link.partition("?")[2])["viewStateShareKey"][0]
    tags = client(store).get_experiment_by_name(EXPERIMENT).tags
    content: dict[str, Any] = json.loads(tags[f"mlflow.sharedViewState.{key}"])
    return content


def test_the_comparison_opens_on_accuracy_over_parameters_and_on_differences_alone(store: Path) -> None:
    publish([SVD, QR], store)
    link = charts_link(store, "http://x")
    assert "compareRunsMode=CHART" in link
    first, *_, last = view(store, link)["compareRunCharts"]
    assert (first["type"], first["xaxis"]["key"], first["yaxis"]["key"]) == (
        "SCATTER",
        "parameters",
        "validation_accuracy",
    )
    assert (last["type"], last["showDifferencesOnly"]) == ("DIFFERENCE", True)
    sections = {section["uuid"] for section in view(store, link)["compareRunSections"]}
    assert {chart["metricSectionId"] for chart in view(store, link)["compareRunCharts"]} <= sections


def test_runs_of_one_method_have_one_colour(store: Path) -> None:
    again = replace(SVD, name="odd-fish", params={**SVD.params, "decompose.keep": 0.25})
    publish([SVD, QR, again], store)
    colours = {named(run): run.data.tags["mlflow.runColor"] for run in runs(store)}
    assert colours["shy-moth"] == colours["odd-fish"] != colours["bold-wren"]


HISTORY = [{"epoch": 0, "validation_accuracy": 0.125}] + [
    {"epoch": epoch, "loss": 2.0 / epoch, "validation_accuracy": 0.5} for epoch in (1, 2, 3)
]
RUNNING = Training("baseline-1a2b", "baseline", 1_700_000_200.5, SVD.params, HISTORY[:2])


def running(store: Path) -> dict[str, list[tuple[int, float]]]:
    """Name of each running run -> the points of its loss."""
    ledger, experiment = client(store), client(store).get_experiment_by_name(EXPERIMENT)
    found = ledger.search_runs([experiment.experiment_id], "attributes.status = 'RUNNING'")
    return {
        run.info.run_name: [(m.step, m.value) for m in ledger.get_metric_history(run.info.run_id, "baseline/loss")]
        for run in found
    }


def test_a_training_under_way_has_a_run_with_each_epoch_once_until_it_ends(store: Path) -> None:
    publish([SVD], store)
    name = "running: baseline · digits · vit-p4 · svd 0.5 · prune 0.3"
    publish_running([RUNNING], store)
    assert running(store) == {name: [(1, 2.0)]}
    for _ in range(2):
        publish_running([replace(RUNNING, history=HISTORY)], store)
        assert running(store) == {name: [(1, 2.0), (2, 1.0), (3, 2.0 / 3)]}
    publish_running([], store)
    assert running(store) == {}
    assert [named(run) for run in runs(store)] == ["shy-moth"]


def test_two_trainings_at_once_have_a_run_each(store: Path) -> None:
    other = replace(RUNNING, key="baseline-3c4d", params={**SVD.params, "prune.rate": 0.5})
    publish_running([RUNNING, other], store)
    assert len(running(store)) == 2
    publish_running([other], store)
    assert list(running(store)) == ["running: baseline · digits · vit-p4 · svd 0.5 · prune 0.5"]
