"""What the readers of other libraries share: names, and the checks that a model and its weights are understood.

Every library has a module beside this one, which says how its tensors are called and what its modules compute.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from vtp.errors import UserError
from vtp.models.family import State
from vtp.models.vit.spec import Resize

T = TypeVar("T")
Pool = tuple[Literal["class", "distillation", "patches"], ...]
DTYPES = (torch.float32, torch.float64)
ACTIVATIONS: dict[str, Literal["gelu", "gelu_tanh", "quick_gelu"]] = {
    "GELU": "gelu",
    "GELUActivation": "gelu",
    "GELUTanh": "gelu_tanh",
    "NewGELUActivation": "gelu_tanh",
    "QuickGELU": "quick_gelu",
    "QuickGELUActivation": "quick_gelu",
}


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """What a foreign model expects to be done to images.

    Attributes:
        mean, std: of the pixels, by channel, in units of 0 to 1.
        resize: how images come to the model's size, or None where nobody said.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: Resize | None = None


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What the tensors of a foreign model do not tell; the words are those of `ViTSpec`."""

    image_size: int
    patch_size: int
    heads: int
    head_dim: int
    norm_epsilon: float
    activation: Literal["gelu", "gelu_tanh", "quick_gelu"]
    pool: Pool
    norm: Literal["pooled", "tokens", "none"]


@dataclass(frozen=True, kw_only=True)
class Library:
    """How the vision transformers of one library are read.

    Attributes:
        models: names of the classes that are read.
        parts: pattern of the names of the classes that such a model may be made of.
        names: pattern of a tensor's name -> its name here (`translated`).
        unread: pattern of the names of tensors on which no logit depends.
        architecture: of a module that consists of known parts.
        preprocessing: what a module says of it; None where it says nothing.
        files: the files of weights that a name stands for by itself, such as those in a folder.
        build: a name and the weights that are to fit -> the library's module, without values.
        download: a name -> the library's own pretrained module.
    """

    models: tuple[str, ...]
    parts: str
    names: Mapping[str, str]
    unread: str
    architecture: Callable[[nn.Module], Architecture]
    preprocessing: Callable[[nn.Module], Preprocessing | None]
    files: Callable[[str], list[str]]
    build: Callable[[str, State], nn.Module]
    download: Callable[[str], nn.Module]


class Named(NamedTuple):
    """A tensor and what its library calls it."""

    name: str
    tensor: Tensor


def files_of_folder(name: str) -> list[str]:
    """Return the files of weights in the folder `name`, or none if it is no folder; UserError if it has none."""
    folder = Path(name)
    found = sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if folder.is_dir() and not found:
        raise UserError(f"{folder}: no weights in this folder: neither model.safetensors nor pytorch_model.bin")
    return list(map(str, found))


def layers(theirs: str, ours: str, names: Mapping[str, str]) -> dict[str, str]:
    """Return the entries of `Library.names` for layers, which have a weight and mostly a bias."""
    return {
        rf"{theirs}(?:{pattern})\.(?P<kind>weight|bias)": rf"{ours}{name}.\g<kind>"
        for pattern, name in names.items()
    }


def check_parts(library: str, reader: Library, module: nn.Module) -> None:
    """Raise UserError unless the module is of a class that is read, and made of known parts alone."""
    model = type(module).__name__
    if model not in reader.models:
        raise UserError(f"{model} of {library} is not supported; supported are {', '.join(reader.models)}")
    for name, part in module.named_modules():
        kind = type(part)
        home = kind.__module__.partition(".")[0]
        if home not in ("torch", library) or not re.fullmatch(reader.parts, kind.__name__):
            raise UserError(f"{name} is a {kind.__name__}, which is not supported in a {model}")


def the_one(what: str, values: Iterable[T]) -> T:
    """Return the value that all blocks share; raise UserError, which says `what` differs, unless they do."""
    distinct = list(dict.fromkeys(values))
    if len(distinct) != 1:
        raise UserError(f"{what} must be the same in the whole model, but are {', '.join(map(str, distinct))}")
    return distinct[0]


def norm_epsilon(module: nn.Module) -> float:
    """Return what every LayerNorm of the module adds to the variance."""
    norms = (part for part in module.modules() if isinstance(part, nn.LayerNorm))
    return the_one("epsilons of norms", (norm.eps for norm in norms))


def activation(module: nn.Module) -> Literal["gelu", "gelu_tanh", "quick_gelu"]:
    """Return the activation of the module's MLPs."""
    found = (part for part in module.modules() if type(part).__name__ in ACTIVATIONS)
    is_tanh = ((part, getattr(part, "approximate", "none") == "tanh") for part in found)
    return the_one(
        "activations", ("gelu_tanh" if tanh else ACTIVATIONS[type(part).__name__] for part, tanh in is_tanh)
    )


def translated(reader: Library, state: Mapping[str, Tensor]) -> dict[str, Named]:
    """Return the tensors by the names of this project, and a few that `folded` knows.

    Raises UserError naming a tensor that has no place.
    """
    found: dict[str, Named] = {}
    for name, tensor in state.items():
        if re.fullmatch(reader.unread, name):
            continue
        matches = ((re.fullmatch(pattern, name), ours) for pattern, ours in reader.names.items())
        ours = next((match.expand(target) for match, target in matches if match), None)
        if ours is None:
            kind = (
                "norms of queries and keys (qk-norm)" if re.search("[qk]_norm", name) else "tensors of that name"
            )
            raise UserError(f"tensor {name} has no place in our vision transformer: {kind} are not supported")
        if ours in found:
            raise UserError(f"tensors {found[ours].name} and {name} stand for the same; one of them must go")
        found[ours] = Named(name, tensor)
    return found


def check_fit(found: Mapping[str, Named], wanted: Mapping[str, Named]) -> None:
    """Raise UserError naming the first tensor that is missing, left over or of another shape."""
    for ours in sorted(found.keys() | wanted.keys()):
        if ours not in found:
            raise UserError(f"tensor {wanted[ours].name} is missing")
        name, tensor = found[ours]
        if ours not in wanted:
            raise UserError(f"tensor {name} is left over: the model has none")
        if tensor.shape != wanted[ours].tensor.shape:
            shapes = f"{tuple(tensor.shape)}, but the model wants it {tuple(wanted[ours].tensor.shape)}"
            raise UserError(f"tensor {name} is {shapes}")


def plain_tensors(found: Mapping[str, Named]) -> State:
    """Return the tensors, on the CPU; raise UserError unless all are float32, or all float64.

    Whether the last norm is of tokens or of what is pooled, of which a model has one, its architecture says.
    """
    first = next(iter(found.values())).tensor.dtype
    for name, tensor in found.values():
        if tensor.dtype not in DTYPES or tensor.dtype != first:
            raise UserError(
                f"tensor {name} is {str(tensor.dtype).removeprefix('torch.')}, but all weights must be float32, "
                "or all float64; .float() on the module converts them"
            )
    return {ours.removeprefix("pooled_"): tensor.detach().cpu() for ours, (_, tensor) in found.items()}
