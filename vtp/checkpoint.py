"""Save and load models: one safetensors file whose metadata has one key, `spec`, and no pickle anywhere.

The value of `spec` is JSON with two keys: `model`, the model's spec, and `sha256`, over that spec and every
tensor. A file that was cut short, altered by a single bit or written by something else is refused.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from vtp.errors import UserError
from vtp.files import existing, replacing
from vtp.models import Model, from_state, spec_from_plain, spec_to_plain

Metadata = dict[str, str]


def save(model: Model, path: Path) -> None:
    """Write `model` to `path`, whole or not at all. Equal models give equal bytes."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with replacing(path) as temporary:
        temporary.write_bytes(_serialised(tensors, spec_to_plain(model.spec)))


def load(path: Path | str) -> Model:
    """Return the model that `save` wrote to `path`: on the CPU, in evaluation mode, in the dtype it was saved in.

    Raises UserError, one sentence, if the file is missing, cut short, altered, or not a checkpoint of a model.
    """
    content = existing(Path(path)).read_bytes()
    try:
        tensors = safetensors.torch.load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        plain = json.loads(header["__metadata__"]["spec"])["model"]
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a checkpoint of this project, or cut short; write it again") from error
    if _serialised(tensors, plain) != content:
        raise UserError(f"{path}: its content does not match its checksum; the file was altered, write it again")
    try:
        return from_state(spec_from_plain(plain), tensors).eval()
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def digest(tensors: Mapping[str, Tensor], plain: Any) -> str:
    """Return the SHA-256 (hexadecimal) over plain data and named tensors, their names, dtypes and shapes."""
    total = hashlib.sha256(json.dumps(plain, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def _serialised(tensors: dict[str, Tensor], plain: Any) -> bytes:
    spec = json.dumps({"model": plain, "sha256": digest(tensors, plain)}, sort_keys=True)
    return safetensors.torch.save(tensors, metadata={"spec": spec})
