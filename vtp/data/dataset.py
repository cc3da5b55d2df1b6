"""A data set in memory and as one file."""

from dataclasses import dataclass
from pathlib import Path

import torch

from vtp.sealed import digest, read_sealed, write_sealed

SPLITS = ("train", "validation", "test")
PARTS = ("images", "labels")


@dataclass(frozen=True, eq=False)
class Split:
    """Images (N, C, H, W), uint8, and their labels (N,), int64, indices into the class names."""

    images: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> "Split":
        """Return the same split on `device`."""
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True, eq=False)
class Dataset:
    """Three disjoint splits and the name of each class."""

    train: Split
    validation: Split
    test: Split
    class_names: tuple[str, ...]

    @property
    def channels(self) -> int:
        """Channels of every image."""
        return self.train.images.shape[1]

    def to(self, device: torch.device | str) -> "Dataset":
        """Return the same data set with its splits on `device`."""
        return Dataset(self.train.to(device), self.validation.to(device), self.test.to(device), self.class_names)

    def digest(self) -> str:
        """Return the SHA-256 (hexadecimal) over all images, labels and class names."""
        return digest(self._tensors(), self.class_names)

    def _tensors(self) -> dict[str, torch.Tensor]:
        return {f"{name}.{part}": getattr(getattr(self, name), part) for name in SPLITS for part in PARTS}


def save_dataset(dataset: Dataset, path: Path) -> None:
    """Write one sealed file; equal data sets give equal bytes."""
    write_sealed(path, "dataset", {"class_names": dataset.class_names}, dataset._tensors())


def load_dataset(path: Path) -> Dataset:
    """Read what `save_dataset` wrote; raise UserError if the file is missing, altered or something else."""
    content, tensors = read_sealed(path, "dataset")
    splits = {name: Split(*(tensors[f"{name}.{part}"] for part in PARTS)) for name in SPLITS}
    return Dataset(**splits, class_names=tuple(content["class_names"]))
