"""Trained vision transformers as models of ours: a live module, a name and a file of weights, a checkpoint.

A further library is a module beside this one and its name in `LIBRARIES`.
"""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from vtp.errors import UserError
from vtp.models.base import Model
from vtp.models.family import State
from vtp.models.vit.module import filled
from vtp.models.vit.pretrained.folding import folded, replace_head
from vtp.models.vit.pretrained.own import load_own
from vtp.models.vit.pretrained.params import LIBRARIES, OWN, SOURCES
from vtp.models.vit.pretrained.reading import (
    Library,
    Preprocessing,
    check_fit,
    check_parts,
    plain_tensors,
    translated,
)
from vtp.models.vit.spec import Resize

HEADS = ("head.", "distillation_head.", "representation.")


def from_module(
    module: nn.Module, preprocessing: Preprocessing | None = None, classes: int | None = None
) -> Model:
    """Return a model of ours that gives the same logits on raw pixels as `module` on normalised ones.

    It has copies of the weights, on the CPU, in their dtype, and is in evaluation mode; `module` stays as it is.
    Dropout, which belongs to the recipe of a training, is not taken over.

    Args:
        module: a vision transformer of timm, torchvision or transformers, in float32 or float64.
        preprocessing: how pixels are normalised; None: as the module's library says.
        classes: of an untrained head, of zeros, in place of one for another number or where there is none;
            None: the module's own head stays.

    Raises UserError, one sentence, if the module computes something that our spec cannot say.
    """
    library = type(module).__module__.partition(".")[0]
    if library not in LIBRARIES:
        raise UserError(
            f"{type(module).__name__} is a class of {library}, but must be a vision transformer of "
            + ", ".join(LIBRARIES)
        )
    return _read(library, module, module.state_dict(), preprocessing, classes)


def load_source(source: str, weights: Path | None = None, classes: int | None = None) -> Model:
    """Return the model that `source` names, with its weights, as `from_module` does.

    Args:
        source: `timm/NAME`, `torchvision/NAME`, `transformers/` and the name of a published model, or a folder:
            `transformers/` and one that `save_pretrained` wrote, `timm/` and one of `timm.models.save_for_hf`;
            or `vtp/` and a checkpoint of this project, which has weights, so that `weights` is not read.
        weights: a file, safetensors or one of torch.save with nothing but tensors; None: those in the folder, or
            else the library's own download.
        classes: as in `from_module`; weights without a head get one, too.

    Raises UserError, one sentence, if the source is unknown or not supported, or the weights do not fit it.
    """
    library, _, name = source.partition("/")
    if library not in (*LIBRARIES, OWN) or not name:
        raise UserError(f"model.source is {source!r}, but must be {SOURCES}")
    if library == OWN:
        return load_own(Path(name), classes)
    reader = _reader(library)
    paths = [weights] if weights else [Path(file) for file in reader.files(name)]
    if not paths:
        module = _downloaded(reader, source, name)
        return _read(library, module, module.state_dict(), None, classes)
    state: State = {}
    for path in paths:
        state |= read_weights(path)
    module = reader.build(name, state)
    try:
        return _read(library, module, state, None, classes)
    except UserError as error:
        raise UserError(f"{paths[0]} as {source}: {error}") from error


def read_weights(path: Path) -> State:
    """Return the tensors in a file, on the CPU; those of `torch.save` are read without running any code.

    What a training script saves beside the model is left: of `model` or `state_dict`, the tensors inside.

    Raises UserError if the file is missing, damaged or holds anything but tensors.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file of weights")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise UserError(f"{path}: truncated, altered or no safetensors file") from error
    except Exception as error:  # of a damaged file PyTorch's reader raises anything at all
        raise UserError(
            f"{path}: damaged, or a pickle that wants to run code, which was not done; save the state_dict alone, "
            "or as safetensors"
        ) from error
    for key in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(f"{path}: must hold tensors by name, a state_dict, and nothing else")
    return dict(content)


def _read(
    library: str, module: nn.Module, state: State, preprocessing: Preprocessing | None, classes: int | None
) -> Model:
    """Return the model of `module` with the weights of `state`, which may have another layout of names."""
    reader = _reader(library)
    check_parts(library, reader, module)
    architecture = reader.architecture(module)
    preprocessing = preprocessing or reader.preprocessing(module)
    if preprocessing is None:
        raise UserError(f"{type(module).__name__} does not say how pixels are normalised; give preprocessing")
    found = translated(reader, state)
    wanted = translated(reader, module.state_dict())
    if classes is not None and not any(name.startswith(HEADS) for name in found):
        wanted = {name: tensor for name, tensor in wanted.items() if not name.startswith(HEADS)}
    check_fit(found, wanted)
    if "head.weight" not in found and classes is None:
        raise UserError(f"{type(module).__name__} has no head, so it gives no logits; give classes")
    tensors = plain_tensors(found)
    if classes not in (None, len(tensors.get("head.weight", ()))):
        replace_head(tensors, architecture.pool, classes)
    return filled(*folded(tensors, architecture, preprocessing))


def _reader(library: str) -> Library:
    try:
        # timm and transformers import torchvision too, which must be importable beside any build of PyTorch.
        import_module("vtp.data.sources.torchvision_shim")
        import_module(library)
    except ModuleNotFoundError as error:
        raise UserError(
            f"{library} is not installed; make tested, or pip install '.[pretrained]', brings it"
        ) from error
    reader: Library = import_module(f"{__name__}.{library}").LIBRARY
    return reader


def _downloaded(reader: Library, source: str, name: str) -> nn.Module:
    try:
        return reader.download(name)
    except OSError as error:  # what all three libraries raise without a network
        raise UserError(
            f"model.source is {source}, but its weights could not be downloaded ({type(error).__name__}); "
            "name a local file in model.weights (transformers: a folder in model.source)"
        ) from error


__all__ = ["LIBRARIES", "Preprocessing", "Resize", "from_module", "load_source", "read_weights"]
