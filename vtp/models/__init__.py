"""Models built from specs. `build` gives the module's shape; `from_state` and `initialised` give it weights.

A further family is a spec, a module and an entry in FAMILIES. Models come back in evaluation mode.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vtp.errors import UserError
from vtp.models.base import Model
from vtp.models.layers import LowRankConv2d, LowRankLinear
from vtp.models.resnet import ResNet, ResNetSpec
from vtp.models.spec import ModelSpec, from_plain, to_plain
from vtp.models.vit import VisionTransformer, ViTSpec


class Family(NamedTuple):
    """The spec of a family of models and the module that is built from it."""

    spec: type[ModelSpec]
    module: Callable[[Any], Model]


FAMILIES = {"vit": Family(ViTSpec, VisionTransformer), "resnet18": Family(ResNetSpec, ResNet)}
LOW_RANK: dict[type[nn.Module], Callable[[Any, int, bool], nn.Module]] = {
    nn.Linear: LowRankLinear,
    nn.Conv2d: LowRankConv2d,
}


def build(spec: ModelSpec) -> Model:
    """Return the module of `spec` on the meta device: shapes and no values, at no cost whatever its size.

    Raises UserError if the spec factorises a layer that the model does not have.
    """
    with torch.device("meta"):
        model = FAMILIES[spec.name].module(spec)
        dense = factorisable(model)
        for name, factor in spec.factors.items():
            if name not in dense:
                raise UserError(f"spec.factors names {name!r}, but the model has no such layer to factorise")
            parent, _, child = name.rpartition(".")
            low_rank = LOW_RANK[type(dense[name])](dense[name], factor.rank, factor.bias)
            setattr(model.get_submodule(parent), child, low_rank)
    return model.eval()


def from_state(spec: ModelSpec, state: Mapping[str, Tensor]) -> Model:
    """Return the module of `spec` with copies of the weights in `state`, in their dtype.

    Raises UserError naming the first tensor that is missing, left over, or of another shape.
    """
    model = build(spec)
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    for name in sorted(expected.keys() | state.keys()):
        found = tuple(state[name].shape) if name in state else "missing"
        allowed = tuple(expected[name]) if name in expected else "absent"
        if found != allowed:
            raise UserError(f"tensor {name} is {found}, but the spec wants it {allowed}")
    model.load_state_dict({name: tensor.clone() for name, tensor in state.items()}, assign=True)
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
    """Return a spec as JSON-ready data."""
    plain: dict[str, Any] = to_plain(spec)
    return plain


def spec_from_plain(plain: Any) -> ModelSpec:
    """Read what `spec_to_plain` made; raise UserError naming the key that does not fit."""
    name = plain.get("name") if isinstance(plain, dict) else None
    if name not in list(FAMILIES):
        raise UserError(f"spec.name is {name!r}, but must be one of {', '.join(FAMILIES)}")
    spec: ModelSpec = from_plain(FAMILIES[name].spec, plain)
    return spec


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
    "Model",
    "ModelSpec",
    "build",
    "factorisable",
    "from_state",
    "initialised",
    "spec_from_plain",
    "spec_to_plain",
]
