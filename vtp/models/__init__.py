"""Models built from specs. `build` gives the module's shape; `from_state` and `initialised` give it weights.

A further family is a folder and a line in FAMILIES. Models come back in evaluation mode. STARTS has what the
section `model` of params.yaml may name: a family, for an untrained model, or `pretrained`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vtp.checked import checked
from vtp.errors import UserError
from vtp.models import resnet, vit
from vtp.models.base import Model, in_batches
from vtp.models.family import Facts, Start
from vtp.models.layers import fill, replace_by_factors
from vtp.models.spec import ModelSpec, to_plain
from vtp.models.vit.pretrained.start import START as PRETRAINED

FAMILIES = {"vit": vit.FAMILY, "resnet18": resnet.FAMILY}


def build(spec: ModelSpec) -> Model:
    """Return the module of `spec` on the meta device: shapes and no values, at no cost whatever its size.

    Raises UserError if the spec factorises a layer that the model does not have.
    """
    with torch.device("meta"):
        model = FAMILIES[spec.name].module(spec)
        dense = factorisable(model)
        for name in spec.factors:
            if name not in dense:
                raise UserError(f"spec.factors names {name!r}, but the model has no such layer to factorise")
        replace_by_factors(model, spec.factors)
    return model.eval()


def from_state(spec: ModelSpec, state: Mapping[str, Tensor]) -> Model:
    """Return the module of `spec` with copies of the weights in `state`, in their dtype.

    Raises UserError naming the first tensor that is missing, left over, or of another shape.
    """
    model = build(spec)
    fill(model, state)
    return model


def initialised(spec: ModelSpec, seed: int, mean: tuple[float, ...], std: tuple[float, ...]) -> Model:
    """Return an untrained float32 model on the CPU; `mean` and `std` are those of the pixels, by channel."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build(spec).to_empty(device="cpu")
        model.initialise()
    model.mean.copy_(torch.tensor(mean))
    model.std.copy_(torch.tensor(std))
    return model


def spec_to_plain(spec: ModelSpec) -> dict[str, Any]:
    """Return the spec as JSON-ready data, without the fields that have their default, but with the version."""
    plain: dict[str, Any] = to_plain(spec)
    return plain


def spec_from_plain(plain: Any, file: str) -> ModelSpec:
    """Read what `spec_to_plain` made of a spec; raise UserError naming `file` and the key that is wrong."""
    name = plain.get("name") if isinstance(plain, dict) else None
    if name not in list(FAMILIES):
        raise UserError(f"{file}: spec.name is {name!r}, but must be one of {', '.join(FAMILIES)}")
    spec: ModelSpec = checked(FAMILIES[name].spec, plain, file, "spec")
    return spec


def dense_spec(params: Any, *, image_size: int, channels: int, classes: int) -> ModelSpec:
    """Return the spec of the untrained model of a section `model`, for images of this size (pixels)."""
    return FAMILIES[params.name].dense(
        params,
        name=params.name,
        image_size=image_size,
        channels=channels,
        classes=classes,
    )


def untrained(params: Any, facts: Facts, seed: int, root: Path) -> Model:
    """Return the untrained model of a section `model` that names a family, for such images; `root` is not read."""
    spec = dense_spec(params, image_size=facts.image_size, channels=facts.channels, classes=facts.classes)
    return initialised(spec, seed, facts.mean, facts.std)


STARTS = {
    **{name: Start(family.params, untrained) for name, family in FAMILIES.items()},
    "pretrained": PRETRAINED,
}


def start(params: Any, facts: Facts, seed: int, root: Path) -> Model:
    """Return the model with which a run of a section `model` begins, on the CPU, in evaluation mode.

    Raises UserError if the section cannot be had, or not for such images. `root` is the repository root, at which
    relative paths start.
    """
    return STARTS[params.name].model(params, facts, seed, root)


def factorisable(model: Model) -> dict[str, nn.Linear | nn.Conv2d]:
    """Return name -> layer for the dense layers inside the blocks: those that may be factorised.

    Linear layers in a vision transformer; 3×3 convolutions and projection shortcuts in a ResNet.
    """
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
        and name.startswith("blocks.")
        and name.rpartition(".")[0] not in model.spec.factors
    }


__all__ = [
    "FAMILIES",
    "STARTS",
    "Facts",
    "Model",
    "ModelSpec",
    "build",
    "dense_spec",
    "factorisable",
    "from_state",
    "in_batches",
    "initialised",
    "spec_from_plain",
    "spec_to_plain",
    "start",
]
