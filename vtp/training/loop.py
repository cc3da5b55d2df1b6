"""One training loop for every model, with or without a penalty on scores, with or without a teacher.

Everything that happens in an epoch is a function of (seed, epoch) and the state at its start, so a run that
was interrupted goes on from its last finished epoch and ends with the same bytes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vtp.data.augment import augmentation
from vtp.data.batches import batch_count, batches
from vtp.data.dataset import Split
from vtp.errors import UserError
from vtp.measure import accuracy_and_loss
from vtp.models import Model, from_state
from vtp.params import TrainingParams
from vtp.scores import scores
from vtp.training.average import Average
from vtp.training.l1 import L1
from vtp.training.mixing import mixing
from vtp.training.optimizer import Optimizer, make_optimizer
from vtp.training.precision import autocast
from vtp.training.resume import Progress, Record, load_progress, save_progress


class Watcher(Protocol):
    """Who is told how a training run goes on."""

    def step(self, images: int) -> None:
        """A step has been taken with so many images."""

    def epoch(self, record: Record) -> None:
        """An epoch has ended; `record` is its line of the history."""


@dataclass(frozen=True)
class Recipe:
    """What one training run is told.

    Attributes:
        stage: its name, for messages.
        seed: of data order, augmentation and dropout.
        epochs: passes over the training split.
        learning_rate: the peak, after warm-up and before the cosine.
        shared: what all stages share, the section `training` of params.yaml.
        keep_best: return the state of best validation accuracy (the later of equals; before the first epoch
            counts, too), else that after the last epoch.
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
    watcher: Watcher,
    teacher: Model | None = None,
) -> tuple[Model, list[Record]]:
    """Train a copy of `model`; return it with a record of the state before the first epoch and after each.

    Args:
        model: where to start, on the device to train on.
        training, validation: splits on the same device.
        resume: file of the state after the last finished epoch; read if it is there, written after each epoch.
        watcher: told of each step and epoch.
        teacher: the model to distil from, where `recipe.distillation` is above 0.

    Raises UserError if the loss becomes NaN or infinite, naming the epoch and step and what to try.
    """
    model = from_state(model.spec, model.state_dict()).train()
    optimizer = make_optimizer(model, recipe.shared)
    # No average under a penalty: it would have no exact zeros.
    average = Average(model, recipe.shared.ema) if recipe.shared.ema and not recipe.l1 else None
    result = average.model if average else model
    progress = load_progress(resume, model, optimizer, average)
    progress = progress or Progress.start(_record(result, validation, 0), result)
    for epoch in range(progress.epochs_done, recipe.epochs):
        loss = train_epoch(model, training, optimizer, recipe, epoch, watcher, teacher, average)
        record = _record(result, validation, epoch + 1) | {
            "loss": loss,
            "learning_rate": learning_rate(recipe, epoch + 1.0),
        }
        progress = progress.after(record, result, recipe.keep_best)
        save_progress(resume, progress, model, optimizer, average)
        watcher.epoch(record)
    return from_state(model.spec, progress.best).eval(), progress.history


def _record(model: Model, validation: Split, epoch: int) -> Record:
    accuracy, loss = accuracy_and_loss(model, validation)
    return {"epoch": epoch, "validation_accuracy": accuracy, "validation_loss": loss}


def train_epoch(
    model: Model,
    training: Split,
    optimizer: Optimizer,
    recipe: Recipe,
    epoch: int,
    watcher: Watcher,
    teacher: Model | None = None,
    average: Average | None = None,
) -> float:
    """Train `model` for one epoch (counted from 0), `average` with it; return the mean loss of its steps."""
    shared = recipe.shared
    torch.manual_seed(recipe.seed * 1_000_003 + epoch)  # dropout, of branches and patches too, and mixing
    model.begin_epoch((epoch + 1) / recipe.epochs)
    steps = batch_count(len(training), shared.batch_size)
    order = batches(training, shared.batch_size, recipe.seed, epoch, augmentation(shared))
    mix = mixing(shared, model.spec.classes)
    student, taught_by = _compiled(model, shared), _compiled(teacher, shared) if teacher else None
    site_scores = list(scores(model).values()) if recipe.l1 else []
    losses = []
    for step, (images, labels) in enumerate(order):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, epoch + (step + 0.5) / steps)
        mixed, targets = mix(images, labels)
        with autocast(images.device, shared.precision):
            loss = loss_of(student, mixed, targets, recipe, taught_by)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), shared.gradient_clip)
        for score in site_scores:
            recipe.l1.after_backward(score)  # type: ignore[union-attr]
        optimizer.step()
        for score in site_scores:
            recipe.l1.after_step(score, optimizer)  # type: ignore[union-attr]
        if average:
            average.update(epoch * steps + step + 1)
        losses.append(loss.detach())
        watcher.step(len(images))
    return _mean_finite(torch.stack(losses).tolist(), recipe, epoch)


def _compiled(model: Model, shared: TrainingParams) -> Callable[[Tensor], Tensor]:
    # Not for shapes of any size: which code runs would depend on what ran before, and the bytes with it.
    return torch.compile(model, dynamic=False) if shared.compile else model


def loss_of(
    model: Callable[[Tensor], Tensor],
    images: Tensor,
    targets: Tensor,
    recipe: Recipe,
    teacher: Callable[[Tensor], Tensor] | None,
) -> Tensor:
    """Return the smoothed cross entropy, mixed with the teacher's soft targets where there is a teacher.

    `targets` are labels (B,) or probabilities (B, classes).
    """
    logits = model(images).float()
    loss = F.cross_entropy(logits, targets, label_smoothing=recipe.shared.label_smoothing)
    if teacher is None:
        return loss
    with torch.no_grad():
        taught = (teacher(images).float() / recipe.temperature).log_softmax(1)
    student = (logits / recipe.temperature).log_softmax(1)
    divergence = F.kl_div(student, taught, reduction="batchmean", log_target=True) * recipe.temperature**2
    return (1 - recipe.distillation) * loss + recipe.distillation * divergence


def learning_rate(recipe: Recipe, epoch: float) -> float:
    """Return the rate after `epoch` epochs: a linear warm-up, then half a cosine down to zero."""
    done, warmup = epoch / recipe.epochs, recipe.shared.warmup_fraction
    if done < warmup:
        return recipe.learning_rate * done / warmup
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))


def _mean_finite(losses: list[float], recipe: Recipe, epoch: int) -> float:
    for step, loss in enumerate(losses):
        if not math.isfinite(loss):
            raise UserError(
                f"{recipe.stage}: the loss is {loss} at epoch {epoch + 1}, step {step + 1}; try a "
                f"{recipe.stage}.learning_rate below {recipe.learning_rate:g}, or training.precision: float32"
            )
    return sum(losses) / len(losses)
