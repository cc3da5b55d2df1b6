"""The registry of data sources: a new one is a function and a line here, and its name in `DataParams`."""

from collections.abc import Callable
from pathlib import Path

from vtp.data.cifar import fetch_cifar
from vtp.data.dataset import Dataset
from vtp.data.digits import fetch_digits
from vtp.data.imagefolder import fetch_imagefolder
from vtp.params import DataParams

SOURCES: dict[str, Callable[[DataParams, int, Path], Dataset]] = {
    "digits": fetch_digits,
    "cifar10": fetch_cifar,
    "cifar100": fetch_cifar,
    "imagefolder": fetch_imagefolder,
}


def fetch(params: DataParams, seed: int, root: Path) -> Dataset:
    """Return the data set that section `data` of params.yaml names; equal arguments give equal data.

    `seed` draws the validation split. `root` is the repository root: a relative `data.path` starts there, and
    downloads are kept in .vtp/downloads below it. Raises UserError if the source cannot be reached or read.
    """
    return SOURCES[params.name](params, seed, root)
