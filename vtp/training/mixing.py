"""Mixing of the images of a batch, and of their labels with them."""

from collections.abc import Callable

from torch import Tensor

from vtp.data.augment import torchvision_transforms
from vtp.params import TrainingParams

Mix = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def mixing(params: TrainingParams, classes: int) -> Mix:
    """Return what makes of images (B, C, H, W) and labels (B,) the images and targets of a step.

    With mixup (arXiv:1710.09412) or CutMix (arXiv:1905.04899), torchvision's, each image is mixed with its
    neighbour in the batch: images come back in float32, targets as probabilities (B, classes). With both, each
    batch takes one of them at even odds. With neither, all stays as it is. Draws from PyTorch's own generator.
    """
    if not (params.mixup or params.cutmix):
        return lambda images, labels: (images, labels)
    v2 = torchvision_transforms()
    kinds = []
    if params.mixup:
        kinds.append(v2.MixUp(alpha=params.mixup, num_classes=classes))
    if params.cutmix:
        kinds.append(v2.CutMix(alpha=params.cutmix, num_classes=classes))
    choice = v2.RandomChoice(kinds)
    return lambda images, labels: choice(images.float(), labels)
