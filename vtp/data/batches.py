"""Batches on the device where the data live, their order and augmentation a function of (seed, epoch)."""

from collections.abc import Iterator

import numpy as np
import torch
from torch.nn import functional

from vtp.data.dataset import Split

Batch = tuple[torch.Tensor, torch.Tensor]


def normalisation(split: Split) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return (mean, standard deviation) of each channel, in units of 0 to 255.

    A channel that is constant everywhere gets a deviation of 1, so that it can be divided by.
    """
    # Counts are whole numbers: exact, the same on every device, and far smaller than the images in float.
    levels = torch.arange(256, dtype=torch.float64)
    means, deviations = [], []
    for channel in split.images.unbind(1):
        count = torch.bincount(channel.flatten(), minlength=256).cpu()
        frequency = count.double() / channel.numel()
        mean = float(frequency @ levels)
        means.append(mean)
        deviations.append(float(frequency @ (levels - mean) ** 2) ** 0.5 or 1.0)
    return tuple(means), tuple(deviations)


def augment(images: torch.Tensor, generator: torch.Generator, crop_padding: int, flip: bool) -> torch.Tensor:
    """Return uint8 images (B, C, H, W), each shifted and, with `flip`, mirrored left to right at even odds.

    A shift is a random crop, one an image, out of the image with `crop_padding` pixels of zeros around it.
    The generator lives on the CPU, wherever the images are.
    """
    count, channels, height, width = images.shape
    shifts = torch.randint(0, 2 * crop_padding + 1, (2, count, 1), generator=generator)
    mirrored = torch.rand((count, 1), generator=generator) < (0.5 if flip else 0.0)
    rows = torch.arange(height) + shifts[0]
    columns = torch.arange(width)
    columns = torch.where(mirrored, columns.flip(0), columns) + shifts[1]
    # One gather for crop and flip together: the fastest form, by far, on a CPU.
    pixels = rows[:, :, None] * (width + 2 * crop_padding) + columns[:, None, :]
    pixels = pixels.view(count, 1, -1).to(images.device).expand(-1, channels, -1)
    padded = functional.pad(images, (crop_padding,) * 4)
    return padded.flatten(2).gather(2, pixels).view_as(images)


def batch_count(images: int, batch_size: int) -> int:
    """Return the number of batches of an epoch: a single image left over, too few for some norms, joins one."""
    full, rest = divmod(images, batch_size)
    return max(1, full + (rest > 1))


def batches(
    split: Split, batch_size: int, seed: int, epoch: int, crop_padding: int, flip: bool
) -> Iterator[Batch]:
    """Yield every image once, shuffled and augmented, as (uint8 images, labels).

    There are `batch_count` of them, the last one smaller or larger by one image. Order and augmentation depend on
    (seed, epoch) alone, not on the device.
    """
    mixed = np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)
    generator = torch.Generator().manual_seed(int(mixed[0]))
    order = list(torch.randperm(len(split), generator=generator).split(batch_size))
    last = batch_count(len(split), batch_size) - 1
    order[last:] = [torch.cat(order[last:])]
    for indices in order:
        chosen = indices.to(split.images.device)
        yield augment(split.images[chosen], generator, crop_padding, flip), split.labels[chosen]


def eval_batches(split: Split, batch_size: int) -> Iterator[Batch]:
    """Yield every image once, in order and as it is, as (uint8 images, labels)."""
    return zip(split.images.split(batch_size), split.labels.split(batch_size), strict=True)
