"""The state of an unfinished training run, in one file that is written whole after each epoch."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vtp.checkpoint import digest
from vtp.files import replacing
from vtp.models import Model

Record = dict[str, float]
MOMENTS = ("step", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Progress:
    """How far a run has come.

    Attributes:
        history: one record a finished epoch.
        best: the weights to return if the run ended now.
        best_accuracy: their validation accuracy.
    """

    history: list[Record]
    best: dict[str, Tensor]
    best_accuracy: float

    @classmethod
    def start(cls, model: Model) -> "Progress":
        """Return the progress of a run that has finished no epoch."""
        return cls([], _copy(model), -1.0)

    @property
    def epochs_done(self) -> int:
        """Number of finished epochs."""
        return len(self.history)

    def after(self, record: Record, model: Model, keep_best: bool) -> "Progress":
        """Return the progress after one more epoch; of equal validation accuracies the later is better."""
        accuracy = record["validation_accuracy"]
        if keep_best and accuracy < self.best_accuracy:
            return Progress([*self.history, record], self.best, self.best_accuracy)
        return Progress([*self.history, record], _copy(model), accuracy)


def save_progress(path: Path, progress: Progress, model: Model, optimizer: torch.optim.Optimizer) -> None:
    """Write the progress, the weights and the optimizer's moments to `path`."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in progress.best.items()}
    for name, parameter in model.named_parameters():
        tensors |= {f"{moment}.{name}": optimizer.state[parameter][moment] for moment in MOMENTS}
    reached = [progress.history, progress.best_accuracy]
    # One key: the order of several differs from run to run.
    metadata = {"progress": json.dumps([*reached, digest(tensors, reached)])}
    with replacing(path) as temporary:
        safetensors.torch.save_file({n: t.contiguous() for n, t in tensors.items()}, temporary, metadata)


def load_progress(path: Path, model: Model, optimizer: torch.optim.Optimizer) -> Progress | None:
    """Put the weights and moments in `path` into `model` and `optimizer`; return the progress.

    None, and nothing done, if the file is not there, or, with a word on stderr, if it is damaged.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt", device=str(model.mean.device)) as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            history, best_accuracy, sha256 = json.loads(file.metadata()["progress"])
            intact = sha256 == digest(tensors, [history, best_accuracy])
    except (SafetensorError, ValueError, KeyError, TypeError):
        intact = False
    if not intact:
        print(f"{path}: truncated or altered; the training starts again", file=sys.stderr)
        return None
    model.load_state_dict(_part(tensors, "model"))
    for name, parameter in model.named_parameters():
        optimizer.state[parameter] = {moment: tensors[f"{moment}.{name}"] for moment in MOMENTS}
    return Progress(history, _part(tensors, "best"), best_accuracy)


def _copy(model: Model) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    start = prefix + "."
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
