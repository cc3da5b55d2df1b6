"""How well a model does: its logits, its accuracy, and that of each class."""

import torch
from torch import Tensor
from torch.nn import functional as F

from vtp.data.batches import eval_batches
from vtp.data.dataset import Split
from vtp.models import Model

EVAL_BATCH = 250


@torch.no_grad()
def logits(model: Model, split: Split) -> Tensor:
    """Return the logits (N, classes) of every image of `split`, in order, on the model's device."""
    was_training = model.training
    model.eval()
    computed = torch.cat([model(images) for images, _ in eval_batches(split, EVAL_BATCH)])
    model.train(was_training)
    return computed


def accuracy(model: Model, split: Split) -> float:
    """Return the fraction of `split` whose largest logit is its label."""
    return accuracy_and_loss(model, split)[0]


def accuracy_and_loss(model: Model, split: Split) -> tuple[float, float]:
    """Return the accuracy on `split` and the mean cross entropy of its labels, in nats."""
    computed = logits(model, split)
    right = (computed.argmax(1) == split.labels).double().mean()
    return float(right), float(F.cross_entropy(computed.double(), split.labels))


def accuracy_by_class(model: Model, split: Split, class_names: tuple[str, ...]) -> dict[str, float]:
    """Return class name -> the fraction of its images in `split` that are recognised (its recall)."""
    right = (logits(model, split).argmax(1) == split.labels).double()
    return {name: float(right[split.labels == index].mean()) for index, name in enumerate(class_names)}
