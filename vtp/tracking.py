"""The MLflow ledger: one run an experiment, made from the experiment's files alone.

Logging while a stage runs would miss every cached stage. So a run is a function of files: publishing twice
adds nothing, and deleting the database and publishing again brings every run back.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from filelock import FileLock

from vtp.errors import UserError

EXPERIMENT = "vtp"
KEY_TAG = "vtp.key"
NAME_TAG = "dvc.experiment"
FIGURES = (  # what metrics.json says of an experiment, in the order of the UI
    "validation_accuracy",
    "test_accuracy",
    "test_accuracy_dense",
    "test_accuracy_pruned",
    "test_accuracy_factorised",
    "validation_images",
    "test_images",
    "parameters",
    "parameters_dense",
    "macs",
    "macs_dense",
)
COLUMNS = (
    f"tags.`{NAME_TAG}`",
    *(f"params.`{name}`" for name in ("decomp", "decompose.keep", "prune.rate")),
    *(f"metrics.`{name}`" for name in FIGURES),
)
VIEW = "methods"  # the name under which the UI finds COLUMNS
BATCH = 1000  # MLflow takes at most so many metrics at once
SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # A server that cannot be reached is reported after half a minute at most; by default it takes many.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
}


@dataclass(frozen=True)
class Experiment:
    """What one finished run of the pipeline left behind.

    Attributes:
        name: what DVC calls it, or the commit's short name for one that was run in the workspace.
        time: when it was committed or finished, seconds since 1970.
        params: dotted key -> value.
        metrics: name -> final figure.
        histories: training stage -> one record an epoch, each with the key `epoch`.
        artifacts: file name -> content.
        code: (path, hash) of each file and folder of code that its stages ran; no part of `key`.
        timings: name -> figure of the machine that ran it; no part of `key`.
    """

    name: str
    time: int
    params: Mapping[str, Any]
    metrics: Mapping[str, float]
    histories: Mapping[str, Sequence[Mapping[str, float]]]
    artifacts: Mapping[str, bytes]
    code: frozenset[tuple[str, str]] = frozenset()
    timings: Mapping[str, float] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """What was run, in words: `digits · vit-p4 · svd 0.6 · prune 0.3`."""
        say = {key: text(value) for key, value in self.params.items()}
        method = say["decomp"]
        model = say["model.name"] + (f"-p{say['model.patch_size']}" if "model.patch_size" in say else "")
        how = method if method == "none" else f"{method} {say['decompose.keep']}"
        return f"{say['data.name']} · {model} · {how} · prune {say['prune.rate']}"

    @property
    def key(self) -> str:
        """SHA-256 over parameters and results, whatever name and time: equal experiments are one run."""
        content = json.dumps([dict(self.params), dict(self.metrics), dict(self.histories)], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()


def tracking_uri(root: Path) -> str:
    """Return MLFLOW_TRACKING_URI if it is set, else the database in the repository root."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root / 'mlflow.db'}"


def publish(experiments: Sequence[Experiment], root: Path) -> int:
    """Add a run for every experiment that the ledger lacks; return how many were added.

    One process at a time: two that both create the database would stop each other. Raises UserError if the
    ledger cannot be reached, read or written; the next call then adds what is missing.
    """
    (root / ".vtp").mkdir(exist_ok=True)
    with FileLock(root / ".vtp" / "ledger.lock"), _client(root) as client:
        experiment_id = _experiment_id(client, root)
        wanted = {experiment.key: experiment for experiment in reversed(experiments)}
        runs = _runs(client, experiment_id)
        for key, run_id in runs.unfinished:
            if key in wanted:
                client.delete_run(run_id)
        missing = [experiment for key, experiment in wanted.items() if key not in runs.finished]
        for experiment in sorted(missing, key=lambda experiment: experiment.time):
            _log(client, experiment_id, experiment)
    return len(missing)


def table_link(root: Path, address: str) -> str:
    """Return the link to the table of all runs, for the UI served at `address`.

    Raises UserError if the ledger cannot be reached or read.
    """
    with _client(root) as client:
        experiment_id = _experiment_id(client, root)
    return (
        f"{address}/#/experiments/{experiment_id}/runs"
        f"?workflowType=machine_learning&compareRunsMode=TABLE&viewStateShareKey={VIEW}"
    )


def compare_link(experiments: Sequence[Experiment], root: Path, address: str) -> str:
    """Return the link to MLflow's page that compares the runs of `experiments`, all published.

    Raises UserError if the ledger cannot be reached or read.
    """
    with _client(root) as client:
        experiment_id = _experiment_id(client, root)
        finished = _runs(client, experiment_id).finished
    runs = quote(json.dumps(list(dict.fromkeys(finished[experiment.key] for experiment in experiments))))
    return f"{address}/#/compare-runs?runs={runs}&experiments={quote(json.dumps([experiment_id]))}"


@dataclass(frozen=True)
class _Runs:
    """The runs of the ledger: key -> run id, and (key, run id) of what an interrupted publication left."""

    finished: Mapping[str, str]
    unfinished: Sequence[tuple[str, str]]


@contextmanager
def _client(root: Path) -> Iterator[Any]:
    """Yield an MLflow client; turn what goes wrong inside into a UserError."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient  # here, because it takes two seconds
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    uri = tracking_uri(root)
    try:
        yield MlflowClient(uri)
    except (MlflowException, SQLAlchemyError, OSError, ImportError) as error:  # ImportError: a database's driver
        if isinstance(error.__context__, RequestException):
            raise UserError(f"no MLflow server answers at {uri}, which MLFLOW_TRACKING_URI names") from error
        reason = str(error).partition("\n")[0]
        raise UserError(f"the MLflow ledger at {uri} cannot be used: {reason}") from error


def _experiment_id(client: Any, root: Path) -> str:
    found = client.get_experiment_by_name(EXPERIMENT)
    if found:
        experiment_id = found.experiment_id
    else:
        # Pinned now: the default is relative to the working directory of whoever comes first.
        local = None if os.environ.get("MLFLOW_TRACKING_URI") else (root / "mlartifacts").as_uri()
        experiment_id = client.create_experiment(EXPERIMENT, artifact_location=local)
    view = {
        "selectedColumns": COLUMNS,
        "columnOrder": ["attributes.`Run Name`", *COLUMNS],
        "columnWidths": dict.fromkeys(COLUMNS, 132),
        "orderByKey": "metrics.`validation_accuracy`",
        "orderByAsc": False,
    }
    client.set_experiment_tag(experiment_id, f"mlflow.sharedViewState.{VIEW}", json.dumps(view))
    return str(experiment_id)


def _runs(client: Any, experiment_id: str) -> _Runs:
    finished: dict[str, str] = {}
    unfinished = []
    page = None
    while page is None or page.token:
        page = client.search_runs([experiment_id], max_results=1000, page_token=page.token if page else None)
        for run in page:
            key = run.data.tags.get(KEY_TAG, "")
            if run.info.status == "FINISHED":
                finished[key] = run.info.run_id
            else:
                unfinished.append((key, run.info.run_id))
    return _Runs(finished, unfinished)


def _log(client: Any, experiment_id: str, experiment: Experiment) -> None:
    """Write one run; it counts as finished by its last line alone."""
    from mlflow.entities import Param

    time = experiment.time * 1000
    tags = {KEY_TAG: experiment.key, NAME_TAG: experiment.name}
    run = client.create_run(experiment_id, start_time=time, tags=tags, run_name=experiment.title)
    run_id = run.info.run_id
    client.log_batch(run_id, params=[Param(key, text(value)) for key, value in experiment.params.items()])
    metrics = list(_metrics(experiment, time))
    for start in range(0, len(metrics), BATCH):
        client.log_batch(run_id, metrics=metrics[start : start + BATCH])
    with tempfile.TemporaryDirectory() as folder:
        for name, content in experiment.artifacts.items():
            (Path(folder) / name).write_bytes(content)
        client.log_artifacts(run_id, folder)
    client.set_terminated(run_id, "FINISHED", end_time=time)


def _metrics(experiment: Experiment, time: int) -> Iterator[Any]:
    """Yield the final figures, those of the machine, and each curve, a point an epoch: `baseline/loss`, …."""
    from mlflow.entities import Metric

    for name, value in {**experiment.metrics, **experiment.timings}.items():
        yield Metric(name, value, time, 0)
    for stage, history in experiment.histories.items():
        for record in history:
            for name, value in record.items():
                if name != "epoch":
                    yield Metric(f"{stage}/{name}", value, time, int(record["epoch"]))


def text(value: Any) -> str:
    """Return a parameter's value in words: lists without brackets."""
    return ", ".join(value) if isinstance(value, tuple) else str(value)
