"""Named tensors and plain data in one file that is whole or refused: safetensors, JSON and a checksum, no pickle.

The metadata have ONE key, the kind of the file (`spec` for a model, `dataset`, …): safetensors writes several in
an order that changes from run to run. Its value is JSON: `content`, the plain data, and `sha256` over that and
every tensor. Equal content gives equal bytes.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vtp.errors import UserError
from vtp.files import existing, replacing


def write_sealed(path: Path, kind: str, content: Any, tensors: Mapping[str, Tensor]) -> None:
    """Write `content` (JSON-ready) and `tensors` (any device) to `path`, whole or not at all.

    Raises UserError if the file cannot be written.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    seal = {"content": content, "sha256": digest(plain, content)}
    with replacing(path) as temporary:
        try:
            save_file(plain, temporary, {kind: json.dumps(seal, ensure_ascii=False)})
        except SafetensorError as error:  # of a full disk, too
            raise OSError(str(error)) from error


def read_sealed(path: Path, kind: str, device: str = "cpu") -> tuple[Any, dict[str, Tensor]]:
    """Return the content and tensors that `write_sealed` wrote to `path` as this kind.

    Raises UserError, one sentence, if the file is missing, cut short, altered in a bit, or of another kind.
    """
    with _reading(path, kind), safe_open(existing(path), framework="pt", device=device) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        seal = _seal(file, kind)
        if seal["sha256"] != digest(tensors, seal["content"]):
            raise ValueError("checksum differs")
    return seal["content"], tensors


def read_content(path: Path, kind: str) -> Any:
    """Return the content alone, unchecked: the tensors are not read. Raises UserError as `read_sealed`."""
    with _reading(path, kind), safe_open(existing(path), framework="pt") as file:
        return _seal(file, kind)["content"]


def _seal(file: Any, kind: str) -> Any:
    seal = json.loads(file.metadata()[kind])
    # Checkpoints of before there was one format for all files call it `model`.
    return {"content": seal["model"], **seal} if "model" in seal else seal


@contextmanager
def _reading(path: Path, kind: str) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: truncated, altered or no {kind} file of this project; run the stage that writes it again"
        ) from error


def digest(tensors: Mapping[str, Tensor], content: Any) -> str:
    """Return the SHA-256 (hexadecimal) over plain data and named tensors, their names, dtypes and shapes."""
    total = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()
