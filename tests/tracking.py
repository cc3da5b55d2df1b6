"""Experiments to publish, and what of them is then in MLflow's store."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from vtp.tracking import EXPERIMENT, NAME_TAG, Experiment, tracking_uri

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


def client(root: Path) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri(root))


def runs(root: Path) -> list[Any]:
    experiment = client(root).get_experiment_by_name(EXPERIMENT)
    return sorted(client(root).search_runs([experiment.experiment_id]), key=named)


def named(run: Any) -> str:
    return str(run.data.tags[NAME_TAG])
