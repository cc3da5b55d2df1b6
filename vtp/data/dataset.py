"""A data set in memory and as one file."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

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


@dataclass(frozen=True)
class Resizing:
    """How images of any size become those of a data set: the keys of the section `data` that say so.

    The defaults are what made the data of files that do not say it.
    """

    image_size: int
    resize: int = 0
    squash: bool = True
    interpolation: str = "bilinear"

    def plain(self) -> dict[str, Any]:
        """Return what differs from the defaults, without `image_size`, which the images or the model tell."""
        found = {field.name: getattr(self, field.name) for field in fields(self)[1:]}
        return {field.name: found[field.name] for field in fields(self)[1:] if found[field.name] != field.default}


@dataclass(frozen=True, eq=False)
class Dataset:
    """Three disjoint splits, the name of each class, and how the images came to their size, if that is known."""

    train: Split
    validation: Split
    test: Split
    class_names: tuple[str, ...]
    resizing: Resizing | None = None

    @property
    def channels(self) -> int:
        """Channels of every image."""
        return self.train.images.shape[1]

    def to(self, device: torch.device | str) -> "Dataset":
        """Return the same data set with its splits on `device`."""
        return replace(self, **{name: getattr(self, name).to(device) for name in SPLITS})

    def digest(self) -> str:
        """Return the SHA-256 (hexadecimal) over all images, labels and class names."""
        return digest(self._tensors(), self.class_names)

    def _tensors(self) -> dict[str, torch.Tensor]:
        return {f"{name}.{part}": getattr(getattr(self, name), part) for name in SPLITS for part in PARTS}


def save_dataset(dataset: Dataset, path: Path) -> None:
    """Write one sealed file; equal data sets give equal bytes."""
    resizing = {"resizing": plain} if dataset.resizing and (plain := dataset.resizing.plain()) else {}
    write_sealed(path, "dataset", {"class_names": dataset.class_names} | resizing, dataset._tensors())


def load_dataset(path: Path) -> Dataset:
    """Read what `save_dataset` wrote; raise UserError if the file is missing, altered or something else."""
    content, tensors = read_sealed(path, "dataset")
    splits = {name: Split(*(tensors[f"{name}.{part}"] for part in PARTS)) for name in SPLITS}
    resizing = Resizing(splits["train"].images.shape[-1], **content.get("resizing", {}))
    return Dataset(**splits, class_names=tuple(content["class_names"]), resizing=resizing)
