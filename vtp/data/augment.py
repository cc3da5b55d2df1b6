"""What is done to the images of a training batch before the model sees them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from vtp.data.batches import Augment
from vtp.params import TrainingParams


def augmentation(params: TrainingParams) -> Augment:
    """Return what `params` ask for: crops and flips of the whole batch, then what is drawn for each image alone.

    The latter is torchvision's: TrivialAugment (arXiv:2103.10158, the wide space) and random erasing
    (arXiv:1708.04896) to black. Everything random comes from the generator.
    """
    each = _transforms_of_each(params)

    def augment(images: Tensor, generator: torch.Generator) -> Tensor:
        images = crop_and_flip(images, generator, params.crop_padding, params.flip)
        return _apply_to_each(images, generator, each) if each else images

    return augment


def crop_and_flip(images: Tensor, generator: torch.Generator, crop_padding: int, flip: bool) -> Tensor:
    """Return uint8 images (B, C, H, W), each shifted and, with `flip`, mirrored left to right at even odds.

    A shift is a random crop, one an image, out of the image with `crop_padding` pixels of zeros around it.
    The generator lives on the CPU, wherever the images are.
    """
    count, channels, height, width = images.shape
    shifts = torch.randint(0, 2 * crop_padding + 1, (2, count, 1), generator=generator)
    mirrored = torch.rand((count, 1), generator=generator) < (0.5 if flip else 0.0)
    # All that goes to an accelerator is three numbers an image; the index is made there.
    drawn = torch.stack([*shifts, mirrored.long()]).to(images.device)
    shifts, mirrored = drawn[:2], drawn[2].bool()
    rows = torch.arange(height, device=images.device) + shifts[0]
    columns = torch.arange(width, device=images.device)
    columns = torch.where(mirrored, columns.flip(0), columns) + shifts[1]
    # One gather for crop and flip together: the fastest form, by far, on a CPU.
    pixels = rows[:, :, None] * (width + 2 * crop_padding) + columns[:, None, :]
    pixels = pixels.view(count, 1, -1).expand(-1, channels, -1)
    padded = functional.pad(images, (crop_padding,) * 4)
    return padded.flatten(2).gather(2, pixels).view_as(images)


def torchvision_transforms() -> Any:
    """Return the module `torchvision.transforms.v2`, which takes a second to import."""
    import vtp.data.sources.torchvision_shim  # noqa: F401  (which makes the next import possible)

    # isort: split
    from torchvision.transforms import v2

    return v2


def _transforms_of_each(params: TrainingParams) -> list[Callable[[Tensor], Tensor]]:
    transforms: list[Callable[[Tensor], Tensor]] = []
    if params.trivial_augment:
        v2 = torchvision_transforms()
        transforms.append(v2.RandomApply([v2.TrivialAugmentWide()], params.trivial_augment))
    if params.erasing:
        transforms.append(torchvision_transforms().RandomErasing(params.erasing))
    return transforms


def _apply_to_each(
    images: Tensor, generator: torch.Generator, transforms: list[Callable[[Tensor], Tensor]]
) -> Tensor:
    # torchvision draws from PyTorch's own generator, so that gets its seed from ours, and its state back after.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        results = []
        for image in images.cpu():  # tiny operations, one by one: an accelerator would wait for each
            for transform in transforms:
                image = transform(image)
            results.append(image)
    return torch.stack(results).to(images.device)
