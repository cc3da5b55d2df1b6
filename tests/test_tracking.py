"""The MLflow ledger, on real sqlite stores."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from vtp.errors import UserError
from vtp.tracking import (
    COLUMNS,
    EXPERIMENT,
    NAME_TAG,
    SETTINGS,
    Experiment,
    Training,
    charts_link,
    publish,
    publish_running,
    table_link,
    tracking_uri,
)

# MLflow's own tables use what sqlalchemy has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")

SVD = Experiment(
    name="shy-moth",
    time=1_700_000_000,
    params={
        "data.name": "digits",
        "data.path": None,
        "decomp": "svd",
        "decompose.keep": 0.5,
        "methods": ("none", "svd"),
        "model.name": "vit",
        "model.patch_size": 4,
        "prune.rate": 0.3,
    },
    metrics={"test_accuracy": 0.97, "parameters": 28257},
    histories={
        "baseline": [{"epoch": 1, "loss": 2.5}, {"epoch": 2, "loss": 1.25}],
        "finetune": [{"epoch": 1, "loss": 0.5}],
    },
    artifacts={"params.yaml": b"decomp: svd\n", "dvc.lock": b"stages:\n", "curves.png": b"\x89PNG"},
    timings={"latency/finetuned/batch_1_ms": 0.5},
)
QR = replace(SVD, name="bold-wren", time=1_700_000_100, params={**SVD.params, "decomp": "qr"})


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database without experiments: MLflow takes seconds to make one."""
    os.environ.update(SETTINGS)
    path = tmp_path_factory.mktemp("empty") / "mlflow.db"
    client(path.parent).search_experiments()
    return path


@pytest.fixture
def root(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(empty_database, tmp_path)
    return tmp_path


def client(root: Path) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri(root))


def runs(root: Path) -> list[Any]:
    experiment = client(root).get_experiment_by_name(EXPERIMENT)
    return sorted(client(root).search_runs([experiment.experiment_id]), key=named)


def named(run: Any) -> str:
    return str(run.data.tags[NAME_TAG])


def contents(root: Path) -> list[Any]:
    """Everything of all runs but their ids, which MLflow draws."""
    ledger = client(root)
    found = []
    for run in runs(root):
        curves = {
            name: [(m.step, m.value, m.timestamp) for m in ledger.get_metric_history(run.info.run_id, name)]
            for name in run.data.metrics
        }
        folder = Path(ledger.download_artifacts(run.info.run_id, ""))
        artifacts = {path.name: path.read_bytes() for path in folder.iterdir()}
        times = (run.info.start_time, run.info.end_time, run.info.status)
        found.append(((named(run), run.info.run_name), times, run.data.params, curves, artifacts))
    return found


def test_a_run_holds_everything_of_its_experiment(root: Path) -> None:
    assert publish([SVD], root) == 1
    time = SVD.time * 1000
    assert contents(root) == [
        (
            ("shy-moth", "digits · vit-p4 · svd 0.5 · prune 0.3"),
            (time, time, "FINISHED"),
            {
                "data.name": "digits",
                "data.path": "None",
                "decomp": "svd",
                "decompose.keep": "0.5",
                "methods": "none, svd",
                "model.name": "vit",
                "model.patch_size": "4",
                "prune.rate": "0.3",
            },
            {
                "test_accuracy": [(0, 0.97, time)],
                "parameters": [(0, 28257.0, time)],
                "latency/finetuned/batch_1_ms": [(0, 0.5, time)],
                "baseline/loss": [(1, 2.5, time), (2, 1.25, time)],
                "finetune/loss": [(1, 0.5, time)],
            },
            dict(SVD.artifacts),
        )
    ]


@pytest.mark.parametrize(
    ("changes", "title"),
    [
        ({"decomp": "none"}, "digits · vit-p4 · none · prune 0.3"),
        ({"decomp": "qr", "decompose.keep": 0.25, "prune.rate": 0}, "digits · vit-p4 · qr 0.25 · prune 0"),
        ({"compress.keep": None}, "digits · vit-p4 · svd 0.5 · prune 0.3"),
        ({"compress.keep": 0.25}, "digits · vit-p4 · svd · keep 0.25"),
    ],
)
def test_a_run_is_called_what_it_is(changes: dict[str, Any], title: str) -> None:
    assert replace(SVD, params={**SVD.params, **changes}).title == title


def test_a_model_without_patches_is_called_by_its_name() -> None:
    params = {key: value for key, value in SVD.params.items() if key != "model.patch_size"} | {"model.name": "mlp"}
    assert replace(SVD, params=params).title == "digits · mlp · svd 0.5 · prune 0.3"


def test_publishing_twice_adds_nothing(root: Path) -> None:
    assert publish([SVD, QR], root) == 2
    before = contents(root)
    assert publish([QR, SVD], root) == 0
    assert contents(root) == before


def test_a_new_database_gets_equal_runs(root: Path, empty_database: Path) -> None:
    publish([SVD, QR], root)
    again = root / "again"
    again.mkdir()
    shutil.copy(empty_database, again)
    publish([QR], again)
    assert publish([SVD, QR], again) == 1
    assert contents(again) == contents(root)


def test_equal_experiments_are_one_run_under_the_first_name(root: Path) -> None:
    assert publish([SVD, replace(SVD, name="workspace", time=SVD.time + 5)], root) == 1
    assert publish([replace(SVD, name="abc1234")], root) == 0
    assert [named(run) for run in runs(root)] == ["shy-moth"]


@pytest.mark.parametrize(
    "other",
    [
        replace(SVD, params={**SVD.params, "decompose.keep": 0.25}),
        replace(SVD, metrics={**SVD.metrics, "test_accuracy": 0.5}),
        replace(SVD, histories={**SVD.histories, "finetune": [{"epoch": 1, "loss": 0.25}]}),
    ],
    ids=["params", "metrics", "histories"],
)
def test_the_key_tells_every_difference_in_parameters_and_results(other: Experiment) -> None:
    assert other.key != SVD.key


def test_the_key_knows_neither_name_nor_order_nor_machine() -> None:
    turned = replace(
        SVD, name="other", time=0, params=dict(reversed(SVD.params.items())), artifacts={}, timings={}
    )
    assert turned.key == SVD.key


class Killed(Mapping[str, bytes]):
    """Artifacts in whose midst the user presses Ctrl-C."""

    def __getitem__(self, key: str) -> bytes:
        raise KeyboardInterrupt

    def __iter__(self) -> Iterator[str]:
        return iter(["params.yaml"])

    def __len__(self) -> int:
        return 1


def test_an_interrupted_publication_is_mended_by_the_next(root: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        publish([SVD, replace(QR, artifacts=Killed())], root)
    assert sorted(run.info.status for run in runs(root)) == ["FINISHED", "RUNNING"]
    assert publish([SVD, QR], root) == 1
    assert [(named(run), run.info.status) for run in runs(root)] == [
        ("bold-wren", "FINISHED"),
        ("shy-moth", "FINISHED"),
    ]


def test_a_failed_upload_is_a_sentence_and_leaves_no_finished_run(root: Path) -> None:
    (root / "mlartifacts").write_text("in the way")
    with pytest.raises(UserError, match=r"ledger at sqlite.* cannot be used: .*mlartifacts"):
        publish([SVD], root)
    assert [run.info.status for run in runs(root)] == ["RUNNING"]
    (root / "mlartifacts").unlink()
    assert publish([SVD], root) == 1
    assert [run.info.status for run in runs(root)] == ["FINISHED"]


def test_many_epochs_fit(root: Path) -> None:
    history = [{"epoch": epoch, "loss": float(epoch), "lr": 0.5} for epoch in range(1, 701)]
    publish([replace(SVD, histories={"baseline": history})], root)
    run_id = runs(root)[0].info.run_id
    assert len(client(root).get_metric_history(run_id, "baseline/loss")) == 700


PUBLISH = (
    "from pathlib import Path; from test_tracking import QR, SVD, publish; publish([SVD, QR], Path({root!r}))"
)


def test_two_publishers_at_once_make_one_database_with_one_run_each_and_say_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PUBLISH.format(root=str(tmp_path))]
    here = Path(__file__).parent
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW")}
    environment["PYTHONPATH"] = os.pathsep.join([str(here), str(here.parent)])
    both = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for _ in range(2)
    ]
    assert [process.communicate()[0] for process in both] == [b"", b""]
    assert [process.returncode for process in both] == [0, 0]
    assert [named(run) for run in runs(tmp_path)] == ["bold-wren", "shy-moth"]


def test_the_links_name_experiment_and_runs(root: Path) -> None:
    publish([SVD, QR], root)
    experiment = client(root).get_experiment_by_name(EXPERIMENT)
    link = table_link(root, "http://127.0.0.1:5000")
    assert link.startswith(f"http://127.0.0.1:5000/#/experiments/{experiment.experiment_id}/runs?")
    assert view(root, link)["selectedColumns"] == list(COLUMNS)


def view(root: Path, link: str) -> dict[str, Any]:
    """What the UI finds under the name in the link."""
    key = parse_qs(link.partition("?")[2])["viewStateShareKey"][0]
    tags = client(root).get_experiment_by_name(EXPERIMENT).tags
    content: dict[str, Any] = json.loads(tags[f"mlflow.sharedViewState.{key}"])
    return content


def test_the_comparison_opens_on_accuracy_over_parameters_and_on_differences_alone(root: Path) -> None:
    publish([SVD, QR], root)
    link = charts_link(root, "http://x")
    assert "compareRunsMode=CHART" in link
    first, *_, last = view(root, link)["compareRunCharts"]
    assert (first["type"], first["xaxis"]["key"], first["yaxis"]["key"]) == (
        "SCATTER",
        "parameters",
        "validation_accuracy",
    )
    assert (last["type"], last["showDifferencesOnly"]) == ("DIFFERENCE", True)
    sections = {section["uuid"] for section in view(root, link)["compareRunSections"]}
    assert {chart["metricSectionId"] for chart in view(root, link)["compareRunCharts"]} <= sections


def test_runs_of_one_method_have_one_colour(root: Path) -> None:
    again = replace(SVD, name="odd-fish", params={**SVD.params, "decompose.keep": 0.25})
    publish([SVD, QR, again], root)
    colours = {named(run): run.data.tags["mlflow.runColor"] for run in runs(root)}
    assert colours["shy-moth"] == colours["odd-fish"] != colours["bold-wren"]


def test_a_run_has_the_times_of_its_trainings_where_they_are_known(root: Path) -> None:
    publish([replace(SVD, span=(1_699_999_000.25, 1_699_999_500.5)), QR], root)
    times = {named(run): (run.info.start_time, run.info.end_time) for run in runs(root)}
    assert times == {
        "shy-moth": (1_699_999_000_250, 1_699_999_500_500),
        "bold-wren": (QR.time * 1000, QR.time * 1000),
    }


HISTORY = [{"epoch": 0, "validation_accuracy": 0.125}] + [
    {"epoch": epoch, "loss": 2.0 / epoch, "validation_accuracy": 0.5} for epoch in (1, 2, 3)
]
RUNNING = Training("baseline-1a2b", "baseline", 1_700_000_200.5, SVD.params, HISTORY[:2])


def running(root: Path) -> dict[str, list[tuple[int, float]]]:
    """Name of each running run -> the points of its loss."""
    ledger, experiment = client(root), client(root).get_experiment_by_name(EXPERIMENT)
    found = ledger.search_runs([experiment.experiment_id], "attributes.status = 'RUNNING'")
    return {
        run.info.run_name: [(m.step, m.value) for m in ledger.get_metric_history(run.info.run_id, "baseline/loss")]
        for run in found
    }


def test_a_training_under_way_has_a_run_with_each_epoch_once_until_it_ends(root: Path) -> None:
    publish([SVD], root)
    name = "running: baseline · digits · vit-p4 · svd 0.5 · prune 0.3"
    publish_running([RUNNING], root)
    assert running(root) == {name: [(1, 2.0)]}
    for _ in range(2):
        publish_running([replace(RUNNING, history=HISTORY)], root)
        assert running(root) == {name: [(1, 2.0), (2, 1.0), (3, 2.0 / 3)]}
    publish_running([], root)
    assert running(root) == {}
    assert [named(run) for run in runs(root)] == ["shy-moth"]


def test_two_trainings_at_once_have_a_run_each(root: Path) -> None:
    other = replace(RUNNING, key="baseline-3c4d", params={**SVD.params, "prune.rate": 0.5})
    publish_running([RUNNING, other], root)
    assert len(running(root)) == 2
    publish_running([other], root)
    assert list(running(root)) == ["running: baseline · digits · vit-p4 · svd 0.5 · prune 0.5"]


def test_a_server_that_does_not_answer_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"^no MLflow server answers at http://127.0.0.1:9, which"):
        publish([SVD], tmp_path)


def test_a_file_that_is_no_database_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "mlflow.db").write_text("no database " * 1000)
    with pytest.raises(UserError, match=r"cannot be used: .*not a database"):
        publish([SVD], tmp_path)
