"""Models that are not trained, for what does not depend on weights: times, sizes, matrices to take apart."""

from dataclasses import replace

import torch
from torch import Tensor

from vtp.models import Model, ModelSpec, build, dense_spec, factorisable, initialised
from vtp.models.spec import Factor
from vtp.models.vit.spec import ViTSpec
from vtp.params import Params


def spec_of(params: Params) -> ModelSpec:
    """Return the spec of the dense model of `params`, for images of three channels and ten classes."""
    return dense_spec(params.model, image_size=params.data.image_size, channels=3, classes=10)


def factorised(spec: ModelSpec, keep: float) -> ModelSpec:
    """Return the spec whose every layer in the blocks has the largest rank within `keep` of its parameters."""
    factors = {}
    for name, layer in factorisable(build(spec)).items():
        rows, columns = layer.weight.flatten(1).shape
        rank = max(1, int(keep * rows * columns / (rows + columns)))
        factors[name] = Factor(rank, layer.bias is not None)
    if isinstance(spec, ViTSpec):
        spec = replace(spec, mimetic=False)  # which is of whole matrices: factors cannot begin so
    return replace(spec, factors=factors)


def untrained(spec: ModelSpec) -> Model:
    """Return a model of the spec with the weights that training begins with, drawn with seed 0."""
    return initialised(spec, 0, (128.0,) * spec.channels, (64.0,) * spec.channels)


def pixels(spec: ModelSpec, count: int) -> Tensor:
    """Return random images (count, C, H, W), uint8."""
    return torch.randint(0, 256, (count, spec.channels, spec.image_size, spec.image_size), dtype=torch.uint8)
