"""One training loop for every model, with or without a penalty on scores, with or without a teacher.

Everything that happens in an epoch is a function of (seed, epoch) and the state at its start, so a run that
was interrupted goes on from its last finished epoch and ends with the same bytes.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vtp.data.batches import batch_count, batches
from vtp.data.dataset import Split
from vtp.errors import UserError
from vtp.measure import accuracy
from vtp.models import Model, from_state
from vtp.params import TrainingParams
from vtp.resume import Progress, load_progress, save_progress
from vtp.scores import L1, scores

Record = dict[str, float]


@dataclass(frozen=True)
class Recipe:
    """What one training run is told.

    Attributes:
        stage: its name, for messages.
        seed: of data order, augmentation and dropout.
        epochs: passes over the training split.
        learning_rate: the peak, after warm-up and before the cosine.
        shared: what all stages share, the section `training` of params.yaml.
        keep_best: return the epoch of best validation accuracy (the later of equals), else the last epoch.
        l1: the penalty on importance scores, if any.
        distillation: weight of the teacher's soft targets in the loss, 0 to 1; the labels have the rest.
        temperature: of the soft targets (arXiv:1503.02531).
    """

    stage: str
    seed: int
    epochs: int
    learning_rate: float
    shared: TrainingParams
    keep_best: bool = True
    l1: L1 | None = None
    distillation: float = 0.0
    temperature: float = 1.0


def train(
    model: Model,
    training: Split,
    validation: Split,
    recipe: Recipe,
    *,
    resume: Path,
    report: Callable[[Record, int], None],
    teacher: Model | None = None,
) -> tuple[Model, list[Record]]:
    """Train a copy of `model` and return it with a record of each epoch.

    Args:
        model: where to start, on the device to train on.
        training, validation: splits on the same device.
        resume: file of the state after the last finished epoch; read if it is there, written after each epoch.
        report: called with the record and the number of epochs after each epoch.
        teacher: the model to distil from, where `recipe.distillation` is above 0.

    Raises UserError if the loss becomes NaN or infinite, naming the epoch and step and what to try.
    """
    model = from_state(model.spec, model.state_dict()).train()
    optimizer = make_optimizer(model, recipe)
    progress = load_progress(resume, model, optimizer) or Progress.start(model)
    for epoch in range(progress.epochs_done, recipe.epochs):
        loss = train_epoch(model, training, optimizer, recipe, epoch, teacher)
        record = {
            "epoch": epoch + 1,
            "loss": loss,
            "validation_accuracy": accuracy(model, validation),
            "learning_rate": learning_rate(recipe, epoch + 1.0),
        }
        progress = progress.after(record, model, recipe.keep_best)
        save_progress(resume, progress, model, optimizer)
        report(record, recipe.epochs)
    return from_state(model.spec, progress.best).eval(), progress.history


def train_epoch(
    model: Model,
    training: Split,
    optimizer: torch.optim.Adam,
    recipe: Recipe,
    epoch: int,
    teacher: Model | None,
) -> float:
    """Train `model` for one epoch (counted from 0) and return the mean loss of its steps."""
    shared = recipe.shared
    torch.manual_seed(recipe.seed * 1_000_003 + epoch)  # dropout
    steps = batch_count(len(training), shared.batch_size)
    site_scores = list(scores(model).values()) if recipe.l1 else []
    losses = []
    for step, (images, labels) in enumerate(
        batches(training, shared.batch_size, recipe.seed, epoch, shared.crop_padding, shared.flip)
    ):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, epoch + (step + 0.5) / steps)
        with autocast(images.device, shared.precision):
            loss = loss_of(model, images, labels, recipe, teacher)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), shared.gradient_clip)
        for score in site_scores:
            recipe.l1.after_backward(score)  # type: ignore[union-attr]
        optimizer.step()
        for score in site_scores:
            recipe.l1.after_step(score, optimizer)  # type: ignore[union-attr]
        losses.append(loss.detach())
    return _mean_finite(torch.stack(losses).tolist(), recipe, epoch)


def loss_of(model: Model, images: Tensor, labels: Tensor, recipe: Recipe, teacher: Model | None) -> Tensor:
    """Return the smoothed cross entropy, mixed with the teacher's soft targets where there is a teacher."""
    logits = model(images).float()
    loss = F.cross_entropy(logits, labels, label_smoothing=recipe.shared.label_smoothing)
    if teacher is None:
        return loss
    with torch.no_grad():
        targets = (teacher(images).float() / recipe.temperature).log_softmax(1)
    student = (logits / recipe.temperature).log_softmax(1)
    divergence = F.kl_div(student, targets, reduction="batchmean", log_target=True) * recipe.temperature**2
    return (1 - recipe.distillation) * loss + recipe.distillation * divergence


def learning_rate(recipe: Recipe, epoch: float) -> float:
    """Return the rate after `epoch` epochs: a linear warm-up, then half a cosine down to zero."""
    done, warmup = epoch / recipe.epochs, recipe.shared.warmup_fraction
    if done < warmup:
        return recipe.learning_rate * done / warmup
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))


def make_optimizer(model: Model, recipe: Recipe) -> torch.optim.Adam:
    """Return Adam or AdamW (arXiv:1711.05101) with weight decay on weight matrices alone.

    Biases, norms, positions, the class token and importance scores are not decayed.
    """
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            is_weight = name == "weight" and parameter.ndim > 1
            (decayed if is_weight else free).append(parameter)
    kind = torch.optim.AdamW if recipe.shared.optimizer == "adamw" else torch.optim.Adam
    groups = [
        {"params": decayed, "weight_decay": recipe.shared.weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    return kind(groups, lr=recipe.learning_rate, fused=True)


def choose_device(name: str) -> torch.device:
    """Return the device `name`, or with `auto` CUDA if there is one; UserError if `cuda` is asked for in vain."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("params.yaml: training.device is 'cuda', but this machine has none; allowed: auto, cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Return the context in which to compute a loss in `precision`."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bfloat16" else nullcontext()


def _mean_finite(losses: list[float], recipe: Recipe, epoch: int) -> float:
    for step, loss in enumerate(losses):
        if not math.isfinite(loss):
            raise UserError(
                f"{recipe.stage}: the loss is {loss} at epoch {epoch + 1}, step {step + 1}; try a "
                f"{recipe.stage}.learning_rate below {recipe.learning_rate:g}, or training.precision: float32"
            )
    return sum(losses) / len(losses)
