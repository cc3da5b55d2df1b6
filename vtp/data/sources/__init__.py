"""The registry of data sources: a new one is a module beside this one, and a line in SOURCES."""

from collections.abc import Callable
from pathlib import Path

from vtp.data.dataset import Dataset
from vtp.data.params import ImageParams
from vtp.data.sources.cifar import fetch_cifar
from vtp.data.sources.digits import fetch_digits
from vtp.data.sources.imagefolder import fetch_imagefolder

SOURCES: dict[str, Callable[[ImageParams, int, Path], Dataset]] = {
    "digits": fetch_digits,
    "cifar10": fetch_cifar,
    "cifar100": fetch_cifar,
    "imagefolder": fetch_imagefolder,
}


def fetch(params: ImageParams, seed: int, root: Path) -> Dataset:
    """Return the data set that section `data` of params.yaml names; equal arguments give equal data.

    `seed` draws the validation split. `root` is the repository root: a relative `data.path` starts there, and
    downloads are kept in .vtp/downloads below it. Raises UserError if the source cannot be reached or read.
    """
    return SOURCES[params.name](params, seed, root)
