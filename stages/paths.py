"""Where the stages' files lie."""

import os
from pathlib import Path
from typing import Any

PARAMS = Path("params.yaml")
LOCK = Path("dvc.lock")
SOURCE = Path("out/source.json")
WEIGHTS = Path("out/weights.json")
DATASET = Path("out/dataset.safetensors")
MOMENTS = Path("out/calibrate/moments.safetensors")
METRICS = Path("metrics.json")
USERS_MODELS = ("model.weights", "model.source", "baseline.teacher")
USERS_FILES = ("data.path", *USERS_MODELS)  # keys of params.yaml that may name a file or folder of the user's


def model_path(stage: str) -> Path:
    """Return the checkpoint that `stage` writes; stages of `decompose` are named `decompose/METHOD`."""
    return Path("out") / stage / "model.safetensors"


def report_path(stage: str) -> Path:
    """Return the JSON file of figures that `stage` writes beside its checkpoint."""
    return Path("out") / stage / "report.json"


def times_path(stage: str) -> Path:
    """Return the JSON file in which `stage` keeps what the slim model's layers cost in time."""
    return Path("out") / stage / "times.json"


def history_path(stage: str) -> Path:
    """Return the JSON file with one record an epoch that a training stage writes."""
    return Path("out") / stage / "history.json"


def repository_root() -> Path:
    """Return the real repository root: temporary and queued experiments run in a copy that is deleted."""
    return Path(os.environ.get("DVC_ROOT", ".")).resolve()


def users_path(content: Any, key: str) -> Path | None:
    """Return the path, as it stands there, that the content of params.yaml has at a key of `USERS_FILES`, if any.

    The content need not have been checked. A model.source begins with the name of a library.
    """
    section, _, name = key.partition(".")
    try:
        path = content[section][name]
        path = path.partition("/")[2] if key == "model.source" else path
        return Path(path) if path else None
    except (TypeError, KeyError, AttributeError):
        return None
