"""What a finished run of the pipeline left behind, as plain data."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

NAME_TAG = "dvc.experiment"
FIGURES = (  # what metrics.json says of an experiment
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
        exported: path below out/export -> content, read when it is asked for; no part of `key`.
        span: when its trainings began and ended, seconds since 1970, where that is known; no part of `key`.
    """

    name: str
    time: int
    params: Mapping[str, Any]
    metrics: Mapping[str, float]
    histories: Mapping[str, Sequence[Mapping[str, float]]]
    artifacts: Mapping[str, bytes]
    code: frozenset[tuple[str, str]] = frozenset()
    timings: Mapping[str, float] = field(default_factory=dict)
    exported: Mapping[str, bytes] = field(default_factory=dict)
    span: tuple[float, float] | None = None

    @property
    def title(self) -> str:
        """What was run, in words: `digits · vit-p4 · svd 0.6 · prune 0.3`."""
        return title(self.params)

    @property
    def key(self) -> str:
        """SHA-256 over parameters and results, whatever name and time: equal experiments are one run."""
        content = json.dumps([dict(self.params), dict(self.metrics), dict(self.histories)], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()


def title(params: Mapping[str, Any]) -> str:
    """Return in words what is run with these flat parameters."""
    say = {key: text(value) for key, value in params.items()}
    method = say["decomp"]
    patches = "" if params.get("model.patch_size") is None else f"-p{say['model.patch_size']}"
    model = say["model.name"] + patches
    start = f"{say['data.name']} · {model} · {method}"
    if params.get("compress.keep") is not None:  # one budget, for pruning and factors
        return f"{start} · keep {say['compress.keep']}"
    keep = "" if method == "none" else f" {say['decompose.keep']}"
    return f"{start}{keep} · prune {say['prune.rate']}"


def text(value: Any) -> str:
    """Return a parameter's value in words: lists without brackets."""
    return ", ".join(value) if isinstance(value, tuple) else str(value)
