"""A module of any class while it is made smaller: its mode, its factors, its tensors."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from vtp.models.layers import LowRankConv2d, LowRankLinear, factor_of, replace_by_factors
from vtp.models.spec import Factor


def put_factors(model: nn.Module, factors: dict[str, Factor]) -> None:
    """Put pairs of factors, not yet filled, where the layers are, in their mode, dtype and device."""
    dense = {name: model.get_submodule(name) for name in factors}
    replace_by_factors(model, factors)
    for name, layer in dense.items():
        weight = next(layer.parameters())
        model.get_submodule(name).to(weight.device, weight.dtype).train(layer.training)
        parent = model.get_submodule(name.rpartition(".")[0])
        if isinstance(parent, nn.TransformerEncoderLayer):
            # Its fast path reads weights without calling their layers: factors would be multiplied out each time.
            parent.activation_relu_or_gelu = 0


def factors_of(model: nn.Module) -> dict[str, Factor]:
    """Return name -> factor of each layer that is factorised, before those that are a part of it."""
    layers = model.named_modules()
    return {name: factor_of(layer) for name, layer in layers if isinstance(layer, LowRankLinear | LowRankConv2d)}


def distinct(model: nn.Module) -> dict[str, Tensor]:
    """Return a model's tensors, not copies, by name; those of several names by the first."""
    first = {id(tensor): (name, tensor) for name, tensor in reversed(model.state_dict(keep_vars=True).items())}
    return dict(reversed(first.values()))


@torch.no_grad()
def copy_into(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Overwrite a model's tensors, so that those that layers share stay shared."""
    state = distinct(model)
    for name, tensor in tensors.items():
        state[name].copy_(tensor)


@contextmanager
def calibrating(model: nn.Module) -> Iterator[None]:
    """Put every module in evaluation mode, with gradients and without changes in place; then as it was.

    An activation that overwrites what a layer gave would hide it.
    """
    modes = {module: module.training for module in model.modules()}
    in_place = [module for module in model.modules() if getattr(module, "inplace", False) is True]
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    model.eval().requires_grad_(True)
    for module in in_place:
        module.inplace = False  # type: ignore[assignment]
    try:
        with torch.enable_grad():
            yield
    finally:
        for module in model.modules():
            module.training = modes.get(module, modes[model])  # of factors, which are new, the model's
        for module in in_place:
            module.inplace = True  # type: ignore[assignment]
        for parameter in frozen:
            parameter.requires_grad_(False)
