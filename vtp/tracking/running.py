"""Runs of trainings under way: they hold the epochs so far, and are gone when the training is."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vtp.tracking.experiment import title
from vtp.tracking.ledger import curves, log_metrics, params_of, writing

RUNNING_TAG = "vtp.running"
KNOWN_TAG = "vtp.records"  # how many of the history the run has


@dataclass(frozen=True)
class Training:
    """A training under way.

    Attributes:
        key: tells it from every other.
        stage: whose it is.
        start: when it began, seconds since 1970.
        params: dotted key -> value.
        history: a record of the state before the first epoch, and one of each finished epoch.
    """

    key: str
    stage: str
    start: float
    params: Mapping[str, Any]
    history: Sequence[Mapping[str, float]]


def publish_running(trainings: Sequence[Training], root: Path) -> None:
    """Make `trainings`, with their epochs so far, the running runs of the ledger; those that it had are gone.

    Raises UserError as `publish`.
    """
    with writing(root) as (client, experiment_id):
        found = client.search_runs([experiment_id], f"tags.`{RUNNING_TAG}` != ''")
        runs = {run.data.tags[RUNNING_TAG]: run for run in found}
        for training in trainings:
            run = runs.pop(training.key, None) or _begin(client, experiment_id, training)
            new = training.history[int(run.data.tags[KNOWN_TAG]) :]
            metrics = curves({training.stage: new}, int(1000 * time.time()))
            log_metrics(client, run.info.run_id, metrics)
            client.set_tag(run.info.run_id, KNOWN_TAG, str(len(training.history)))
        for run in runs.values():
            client.delete_run(run.info.run_id)


def _begin(client: Any, experiment_id: str, training: Training) -> Any:
    tags = {RUNNING_TAG: training.key, KNOWN_TAG: "0"}
    name = f"running: {training.stage} · {title(training.params)}"
    run = client.create_run(experiment_id, start_time=int(1000 * training.start), tags=tags, run_name=name)
    client.log_batch(run.info.run_id, params=params_of(training.params))
    return run
