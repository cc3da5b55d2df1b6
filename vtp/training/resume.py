"""The state of an unfinished training run, in one sealed file that is written whole after each epoch."""

import sys
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from vtp.errors import UserError
from vtp.models import Model
from vtp.sealed import read_sealed, write_sealed
from vtp.training.average import Average
from vtp.training.optimizer import Optimizer

Record = dict[str, float]
KIND = "progress"
MOMENTS = ("step", "exp_avg", "exp_avg_sq", "momentum_buffer")  # of Adam and of Muon


@dataclass(frozen=True)
class Progress:
    """How far a run has come.

    Attributes:
        history: a record of the state before the first epoch, and one of each finished epoch.
        best: the weights to return if the run ended now.
        best_accuracy: their validation accuracy.
    """

    history: list[Record]
    best: dict[str, Tensor]
    best_accuracy: float

    @classmethod
    def start(cls, record: Record, model: Model) -> "Progress":
        """Return the progress of a run that has finished no epoch."""
        return cls([record], _copy(model), record["validation_accuracy"])

    @property
    def epochs_done(self) -> int:
        """Number of finished epochs."""
        return len(self.history) - 1

    def after(self, record: Record, model: Model, keep_best: bool) -> "Progress":
        """Return the progress after one more epoch; of equal validation accuracies the later is better."""
        accuracy = record["validation_accuracy"]
        if keep_best and accuracy < self.best_accuracy:
            return Progress([*self.history, record], self.best, self.best_accuracy)
        return Progress([*self.history, record], _copy(model), accuracy)


def save_progress(
    path: Path, progress: Progress, model: Model, optimizer: Optimizer, average: Average | None = None
) -> None:
    """Write the progress, the weights, their average and the optimizer's moments to `path`."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in progress.best.items()}
    if average:
        tensors |= {f"average.{name}": tensor for name, tensor in average.model.state_dict().items()}
    for name, parameter in model.named_parameters():
        state = optimizer.state[parameter]
        tensors |= {f"{moment}.{name}": state[moment] for moment in MOMENTS if moment in state}
    write_sealed(path, KIND, [progress.history, progress.best_accuracy], tensors)


def load_progress(
    path: Path, model: Model, optimizer: Optimizer, average: Average | None = None
) -> Progress | None:
    """Put what `save_progress` wrote to `path` into `model`, `optimizer` and `average`; return the progress.

    None, and nothing done, if the file is not there, or, with a word on stderr, if it is damaged.
    """
    if not path.is_file():
        return None
    try:
        (history, best_accuracy), tensors = read_sealed(path, KIND, str(model.mean.device))
    except UserError:
        print(f"{path}: truncated or altered; the training starts again", file=sys.stderr)
        return None
    model.load_state_dict(_part(tensors, "model"))
    if average:
        average.model.load_state_dict(_part(tensors, "average"))
    for name, parameter in model.named_parameters():
        saved = {moment: f"{moment}.{name}" for moment in MOMENTS if f"{moment}.{name}" in tensors}
        optimizer.state[parameter].update({moment: tensors[place] for moment, place in saved.items()})
    return Progress(history, _part(tensors, "best"), best_accuracy)


def _copy(model: Model) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    start = prefix + "."
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
