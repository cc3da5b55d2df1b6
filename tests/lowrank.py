"""What the tests of factorised models share."""

from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from tests.models import random_model, small_spec
from vtp.calibration.watching import output_rows, watched
from vtp.decompositions import METHODS
from vtp.models import Model, factorisable
from vtp.models.vit.spec import BlockSpec, HeadSpec
from vtp.params import DecomposeParams
from vtp.times import LayerTimes, Times

EXACT = sorted(set(METHODS) - {"evd", "cholesky", "svd_randomized", "svd_full", "qr", "qr_full"})


def settings_of(**changes: Any) -> DecomposeParams:
    default = DecomposeParams(
        keep=0.6, budget="parameters", allocation="global", metric="activation", form="auto", correction="none"
    )
    return replace(default, **changes)


@cache
def small(family: str) -> Model:
    return random_model(small_spec(family), seed=1)


def layer_outputs(model: Model, images: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(inputs, outputs as rows) of every factorisable layer of a model."""
    layers = factorisable(model)
    with torch.no_grad(), watched(layers) as seen:
        model(images)
    return {name: seen[name][0] for name in layers}, {
        name: output_rows(layers[name], seen[name][1]) for name in layers
    }


def centred_norm(output: Tensor) -> float:
    return float((output - output.mean(0)).norm())


def product(model: Model, name: str) -> Tensor:
    """The weight matrix that a layer's factors stand for."""
    layer = model.get_submodule(name)
    return layer.left.weight.detach().flatten(1) @ layer.right.weight.detach().flatten(1)  # type: ignore


def wide() -> Model:
    """A model whose layers are large enough for ranks of some steps."""
    block = BlockSpec((HeadSpec(32, 32),) * 4, 160)
    return random_model(small_spec("vit", dim=128, head_dim=32, blocks=(block, block)), 0)


def invented(model: Model) -> Times:
    """Times by which a dense layer costs 4, factors 1 a step, and all else 10."""
    layers = {name: LayerTimes(4.0, (16, 32, 48), (1.0, 2.0, 3.0)) for name in factorisable(model)}
    total = 10.0 + 4.0 * len(layers)
    return Times(8, total, layers, total)
