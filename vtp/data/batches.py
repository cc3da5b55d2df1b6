"""Batches on the device where the data live, their order and augmentation a function of (seed, epoch)."""

from collections.abc import Callable, Iterator

import numpy as np
import torch

from vtp.data.dataset import Split

Batch = tuple[torch.Tensor, torch.Tensor]
Augment = Callable[[torch.Tensor, torch.Generator], torch.Tensor]


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


def batch_count(images: int, batch_size: int) -> int:
    """Return the number of batches of an epoch: a single image left over, too few for some norms, joins one."""
    full, rest = divmod(images, batch_size)
    return max(1, full + (rest > 1))


def batches(split: Split, batch_size: int, seed: int, epoch: int, augment: Augment) -> Iterator[Batch]:
    """Yield every image once, shuffled and augmented, as (uint8 images, labels).

    There are `batch_count` of them, the last one smaller or larger by one image. Order and augmentation depend on
    (seed, epoch) alone, not on the device: `augment` draws from the generator that it is given, on the CPU.
    """
    mixed = np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)
    generator = torch.Generator().manual_seed(int(mixed[0]))
    shuffled = torch.randperm(len(split), generator=generator).to(split.images.device)
    order = list(shuffled.split(batch_size))
    last = batch_count(len(split), batch_size) - 1
    order[last:] = [torch.cat(order[last:])]
    for indices in order:
        yield augment(split.images[indices], generator), split.labels[indices]
