"""A data set in memory and as one file."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from vtp.errors import UserError
from vtp.files import existing, replacing

SPLITS = ("train", "validation", "test")


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
        return _digest(_tensors(self), self.class_names)


def save_dataset(dataset: Dataset, path: Path) -> None:
    """Write one safetensors file; equal data sets give equal bytes."""
    tensors = _tensors(dataset)
    description = {
        "class_names": dataset.class_names,
        "sha256": _digest(tensors, dataset.class_names),
    }
    with replacing(path) as temporary:
        # One key only: safetensors writes several in an order that changes from run to run.
        save_file(tensors, temporary, metadata={"dataset": json.dumps(description)})


def load_dataset(path: Path) -> Dataset:
    """Read what `save_dataset` wrote; raise UserError if the file is missing, altered or something else."""
    try:
        with safe_open(existing(path), framework="pt") as file:
            description = json.loads(file.metadata()["dataset"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        class_names = tuple(description["class_names"])
        if description["sha256"] != _digest(tensors, class_names):
            raise ValueError("checksum differs")
    except (SafetensorError, TypeError, KeyError, ValueError) as error:
        raise UserError(
            f"{path}: truncated, altered or not a data set of this pipeline; "
            "allowed is what the fetch stage wrote (dvc repro fetch)"
        ) from error
    splits = {name: Split(tensors[f"{name}.images"], tensors[f"{name}.labels"]) for name in SPLITS}
    return Dataset(**splits, class_names=class_names)


def _tensors(dataset: Dataset) -> dict[str, torch.Tensor]:
    tensors = {}
    for name in SPLITS:
        split: Split = getattr(dataset, name)
        tensors[f"{name}.images"] = split.images.contiguous()
        tensors[f"{name}.labels"] = split.labels.contiguous()
    return tensors


def _digest(tensors: dict[str, torch.Tensor], class_names: tuple[str, ...]) -> str:
    digest = hashlib.sha256(json.dumps(class_names).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy(force=True).data)
    return digest.hexdigest()
