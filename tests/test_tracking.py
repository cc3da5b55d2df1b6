"""The MLflow ledger, on real sqlite stores."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.tracking import QR, SVD, client, named, runs
from vtp.errors import UserError
from vtp.tracking import (
    Experiment,
    publish,
)

# MLflow's own tables use what sqlalchemy has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")


def contents(store: Path) -> list[Any]:
    """Everything of all runs but their ids, which MLflow draws."""
    ledger = client(store)
    found = []
    for run in runs(store):
        curves = {
            name: [(m.step, m.value, m.timestamp) for m in ledger.get_metric_history(run.info.run_id, name)]
            for name in run.data.metrics
        }
        folder = Path(ledger.download_artifacts(run.info.run_id, ""))
        artifacts = {path.name: path.read_bytes() for path in folder.iterdir()}
        times = (run.info.start_time, run.info.end_time, run.info.status)
        found.append(((named(run), run.info.run_name), times, run.data.params, curves, artifacts))
    return found


def test_a_run_holds_everything_of_its_experiment(store: Path) -> None:
    assert publish([SVD], store) == 1
    time = SVD.time * 1000
    assert contents(store) == [
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
    assert replace(SVD, params=params | {"model.patch_size": None}).title == "digits · mlp · svd 0.5 · prune 0.3"


def test_publishing_twice_adds_nothing(store: Path) -> None:
    assert publish([SVD, QR], store) == 2
    before = contents(store)
    assert publish([QR, SVD], store) == 0
    assert contents(store) == before


def test_a_new_database_gets_equal_runs(store: Path, empty_database: Path) -> None:
    publish([SVD, QR], store)
    again = store / "again"
    again.mkdir()
    shutil.copy(empty_database, again)
    publish([QR], again)
    assert publish([SVD, QR], again) == 1
    assert contents(again) == contents(store)


def test_equal_experiments_are_one_run_under_the_first_name(store: Path) -> None:
    assert publish([SVD, replace(SVD, name="workspace", time=SVD.time + 5)], store) == 1
    assert publish([replace(SVD, name="abc1234")], store) == 0
    assert [named(run) for run in runs(store)] == ["shy-moth"]


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


def test_an_interrupted_publication_is_mended_by_the_next(store: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        publish([SVD, replace(QR, artifacts=Killed())], store)
    assert sorted(run.info.status for run in runs(store)) == ["FINISHED", "RUNNING"]
    assert publish([SVD, QR], store) == 1
    assert [(named(run), run.info.status) for run in runs(store)] == [
        ("bold-wren", "FINISHED"),
        ("shy-moth", "FINISHED"),
    ]


def test_a_failed_upload_is_a_sentence_and_leaves_no_finished_run(store: Path) -> None:
    (store / "mlartifacts").write_text("in the way")
    with pytest.raises(UserError, match=r"ledger at sqlite.* cannot be used: .*mlartifacts"):
        publish([SVD], store)
    assert [run.info.status for run in runs(store)] == ["RUNNING"]
    (store / "mlartifacts").unlink()
    assert publish([SVD], store) == 1
    assert [run.info.status for run in runs(store)] == ["FINISHED"]


def test_many_epochs_fit(store: Path) -> None:
    history = [{"epoch": epoch, "loss": float(epoch), "lr": 0.5} for epoch in range(1, 701)]
    publish([replace(SVD, histories={"baseline": history})], store)
    run_id = runs(store)[0].info.run_id
    assert len(client(store).get_metric_history(run_id, "baseline/loss")) == 700


PUBLISH = (
    "from pathlib import Path; from test_tracking import QR, SVD, publish; publish([SVD, QR], Path({store!r}))"
)


def test_two_publishers_at_once_make_one_database_with_one_run_each_and_say_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PUBLISH.format(store=str(tmp_path))]
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


def test_a_run_has_the_times_of_its_trainings_where_they_are_known(store: Path) -> None:
    publish([replace(SVD, span=(1_699_999_000.25, 1_699_999_500.5)), QR], store)
    times = {named(run): (run.info.start_time, run.info.end_time) for run in runs(store)}
    assert times == {
        "shy-moth": (1_699_999_000_250, 1_699_999_500_500),
        "bold-wren": (QR.time * 1000, QR.time * 1000),
    }


def test_a_server_that_does_not_answer_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"^no MLflow server answers at http://127.0.0.1:9, which"):
        publish([SVD], tmp_path)


def test_a_file_that_is_no_database_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "mlflow.db").write_text("no database " * 1000)
    with pytest.raises(UserError, match=r"cannot be used: .*not a database"):
        publish([SVD], tmp_path)


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / ".vtp").write_text("no folder")
    with pytest.raises(UserError, match=r"\.vtp/ledger\.lock: cannot be written \(File exists\)$"):
        publish([SVD], tmp_path)
