"""How well a model does: its logits, its accuracy, and that of each class."""

import torch
from torch import Tensor
from torch.nn import functional as F

from vtp.data.dataset import Split
from vtp.models import Model, in_batches


@torch.no_grad()
def logits(model: Model, images: Tensor) -> Tensor:
    """Return the logits (N, classes) of images (N, C, H, W), uint8, in order, on the model's device."""
    was_training = model.training
    model.eval()
    computed = torch.cat([model(batch) for batch in in_batches(images, model.spec)])
    model.train(was_training)
    return computed


def accuracy(model: Model, split: Split) -> float:
    """Return the fraction of `split` whose largest logit is its label."""
    return accuracy_and_loss(model, split)[0]


def accuracy_and_loss(model: Model, split: Split) -> tuple[float, float]:
    """Return the accuracy on `split` and the mean cross entropy of its labels, in nats."""
    computed = logits(model, split.images)
    return fraction_right(computed.argmax(1), split), float(F.cross_entropy(computed.double(), split.labels))


def answers(model: Model, split: Split) -> Tensor:
    """Return the class that each image of `split` is taken for: that of the largest logit, (N,)."""
    return logits(model, split.images).argmax(1)


def fraction_right(found: Tensor, split: Split) -> float:
    """Return the accuracy of answers (N,)."""
    return float((found == split.labels).double().mean())


def accuracy_by_class(found: Tensor, split: Split, class_names: tuple[str, ...]) -> dict[str, float]:
    """Return class name -> the fraction of its images in `split` that the answers (N,) recognise (its recall)."""
    right = (found == split.labels).double()
    return {name: float(right[split.labels == index].mean()) for index, name in enumerate(class_names)}


def divergence(dense: Tensor, found: Tensor) -> tuple[float, float]:
    """Return the mean KL divergence (nats) of predictions from those of the dense model, and how many agree.

    Args:
        dense, found: logits (N, classes).
    """
    expected, ours = dense.double().log_softmax(1), found.double().log_softmax(1)
    agreement = (dense.argmax(1) == found.argmax(1)).double().mean()
    return float((expected.exp() * (expected - ours)).sum(1).mean()), float(agreement)
