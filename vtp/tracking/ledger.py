"""The ledger's runs of finished experiments."""

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from filelock import FileLock

from vtp.colours import colour
from vtp.errors import UserError
from vtp.tracking.experiment import NAME_TAG, Experiment, text
from vtp.tracking.registry import KEY_TAG, log_model

EXPERIMENT = "vtp"
COLOUR_TAG = "mlflow.runColor"  # the UI draws a run in it
BATCH = 1000  # MLflow takes at most so many metrics at once
SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # A server that cannot be reached is reported after half a minute at most; by default it takes many.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
}


def tracking_uri(root: Path) -> str:
    """Return MLFLOW_TRACKING_URI if it is set, else the database in the repository root."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root / 'mlflow.db'}"


def publish(experiments: Sequence[Experiment], root: Path) -> int:
    """Add a run for every experiment that the ledger lacks; return how many were added.

    Raises UserError if the ledger cannot be reached, read or written; the next call then adds what is missing.
    """
    with writing(root) as (client, experiment_id):
        wanted = {experiment.key: experiment for experiment in reversed(experiments)}
        runs = runs_of(client, experiment_id)
        for key, run_id in runs.unfinished:
            if key in wanted:
                client.delete_run(run_id)
        missing = [experiment for key, experiment in wanted.items() if key not in runs.finished]
        for experiment in sorted(missing, key=lambda experiment: experiment.time):
            _log(client, experiment_id, experiment)
    return len(missing)


@contextmanager
def writing(root: Path) -> Iterator[tuple[Any, str]]:
    """Yield an MLflow client and the id of the ledger's experiment, to one process at a time.

    Two that both create the database would stop each other. Raises UserError as `connected`.
    """
    with _alone(root / ".vtp" / "ledger.lock"), connected(root) as client:
        yield client, experiment_id_of(client, root)


def _alone(path: Path) -> AbstractContextManager[object]:
    """Return the lock at `path`, taken; raise UserError where the file cannot be made."""
    try:
        path.parent.mkdir(exist_ok=True)
        return FileLock(path).acquire()
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error


@contextmanager
def connected(root: Path) -> Iterator[Any]:
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


def experiment_id_of(client: Any, root: Path) -> str:
    """Return the id of the ledger's experiment, which is made where there is none."""
    found = client.get_experiment_by_name(EXPERIMENT)
    if found:
        return str(found.experiment_id)
    # Pinned now: the default is relative to the working directory of whoever comes first.
    local = None if os.environ.get("MLFLOW_TRACKING_URI") else (root / "mlartifacts").as_uri()
    return str(client.create_experiment(EXPERIMENT, artifact_location=local))


@dataclass(frozen=True)
class Runs:
    """The runs of the ledger: key -> run id, and (key, run id) of what an interrupted publication left."""

    finished: Mapping[str, str]
    unfinished: Sequence[tuple[str, str]]


def runs_of(client: Any, experiment_id: str) -> Runs:
    """Return the runs of experiments."""
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
    return Runs(finished, unfinished)


def _log(client: Any, experiment_id: str, experiment: Experiment) -> None:
    """Write one run; it counts as finished by its last line alone."""
    start, end = (int(1000 * time) for time in experiment.span or (experiment.time, experiment.time))
    tags = {KEY_TAG: experiment.key, NAME_TAG: experiment.name, COLOUR_TAG: colour(experiment.params["decomp"])}
    run = client.create_run(experiment_id, start_time=start, tags=tags, run_name=experiment.title)
    run_id = run.info.run_id
    client.log_batch(run_id, params=params_of(experiment.params))
    log_metrics(client, run_id, chain(_figures(experiment, end), curves(experiment.histories, end)))
    with tempfile.TemporaryDirectory() as folder:
        for name, content in experiment.artifacts.items():
            (Path(folder) / name).write_bytes(content)
        client.log_artifacts(run_id, folder)
    log_model(client, run_id, experiment)
    client.set_terminated(run_id, "FINISHED", end_time=end)


def params_of(params: Mapping[str, Any]) -> list[Any]:
    """Return flat parameters as MLflow wants them."""
    from mlflow.entities import Param

    return [Param(key, text(value)) for key, value in params.items()]


def log_metrics(client: Any, run_id: str, metrics: Iterable[Any]) -> None:
    """Write the metrics in as few batches as MLflow takes."""
    waiting = iter(metrics)
    while batch := list(islice(waiting, BATCH)):
        client.log_batch(run_id, metrics=batch)


def _figures(experiment: Experiment, time: int) -> Iterator[Any]:
    """Yield the final figures, and those of the machine: `latency/…`, `seconds/…`."""
    from mlflow.entities import Metric

    for name, value in {**experiment.metrics, **experiment.timings}.items():
        yield Metric(name, value, time, 0)


def curves(histories: Mapping[str, Sequence[Mapping[str, float]]], time: int) -> Iterator[Any]:
    """Yield a point an epoch of every figure of each training stage: `baseline/loss`, ….; `time` in ms."""
    from mlflow.entities import Metric

    for stage, history in histories.items():
        for record in history:
            for name, value in record.items():
                if name != "epoch":
                    yield Metric(f"{stage}/{name}", value, time, int(record["epoch"]))
