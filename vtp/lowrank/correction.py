"""After factorising, factorise each layer again for what it reads by then, in closed form and without training.

Layers before it have factors, too, so a layer reads something else than its own were made for. It is fitted anew,
by least squares, to what is made in the model before compression, and the fit gets factors of the same rank.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from vtp.calibration.moments import Moments
from vtp.calibration.refitting import refitted
from vtp.calibration.regression import Sums, fit, least_squares
from vtp.calibration.roots import Root
from vtp.decompositions import Decomposition, balance, decompose_all
from vtp.lowrank.metric import Metric, metrics
from vtp.lowrank.units import State, stored
from vtp.models import Model
from vtp.models.layers import LowRankConv2d, LowRankLinear, fill
from vtp.models.spec import Factor
from vtp.params import DecomposeParams


def corrected(
    model: Model,
    slim: Model,
    reference: Model,
    images: Tensor,
    method: str,
    params: DecomposeParams,
    flows: Mapping[str, Moments],
) -> Model:
    """Return `model` with other factors of the same ranks.

    Args:
        model: the factorised model.
        slim: the model that was factorised.
        reference: the model that was pruned to it, or `slim` itself; all three are on one device. What writes to
            the residual stream is fitted to its layers; the others, which may have fewer dims than there, or other
            ones, to those of `slim` as they answer to what `reference` has in its residual stream.
        images: uint8 (N, C, H, W), on that device.
        method, params, flows: by which it was factorised.
    """
    measures = metrics(params.metric, flows)

    def change(result: Model, name: str, sums: Sums) -> None:
        dense, pair = slim.get_submodule(name), result.get_submodule(name)
        fill(pair, refactorised(dense, pair, model.spec.factors[name], sums, method, measures[name]))

    sources = {name: reference if name.split(".", 2)[2] in model.writers else slim for name in model.spec.factors}
    return refitted(model, reference, images, sources, change)


def refactorised(
    dense: nn.Module, pair: nn.Module, factor: Factor, sums: Sums, method: str, measure: Metric
) -> State:
    """Return the tensors of a pair of factors that is fitted to what `sums` say, of the same rank and form.

    Args:
        dense: the layer that it was made of.
        pair: as it is.
        factor: its rank, form and bias.
        sums: of what it reads, and is to give.
        method, measure: by which and in which metric it was factorised; what it reads now is taken instead.
    """
    assert isinstance(dense, nn.Linear | nn.Conv2d)
    weight, _ = fit(dense, sums, factor.bias)
    if measure.right is not None:
        measure = replace(measure, right=Root(sums.inputs(factor.bias).covariance))
    outcome = decompose_all({"": measure.apply(weight)}, method)[""].outcome
    found = [_factors_of(pair)]
    if isinstance(outcome, Decomposition):
        found.append(balance(*measure.undo(*outcome.truncate(factor.rank))))
    tried = [_refitted_left(factors, sums, factor.bias) for factors in found]
    left, right, bias = min(tried, key=lambda each: float(measure.apply(weight - each[0] @ each[1]).norm()))
    state = stored(factor.form, left, right, dense.weight)
    return state | ({"left.bias": bias.to(dense.weight)} if factor.bias else {})


def _factors_of(pair: nn.Module) -> tuple[Tensor, Tensor]:
    """Return the left (out, rank) and right factor (rank, in) that a pair has, in float64 on the CPU."""
    assert isinstance(pair, LowRankLinear | LowRankConv2d)
    left, right = (cast(Tensor, factor.weight).flatten(1).double().cpu() for factor in (pair.left, pair.right))
    return left, right


def _refitted_left(factors: tuple[Tensor, Tensor], sums: Sums, with_bias: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return left, right and a bias (out), all but the right one fitted to what the layer is to give."""
    left, right = factors
    missing = sums.missing(left @ right, torch.zeros_like(sums.y)).through(right)
    change, bias = least_squares(missing, with_bias, float(left.norm()))
    return left + change, right, bias
