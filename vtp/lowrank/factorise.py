"""Factorise a model's units: which rank each gets, its pair of factors, and the new model.

A method approximates P W S, where P and S belong to the metric; what is minimised is the error in that metric.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from vtp.calibration.moments import Moments
from vtp.decompositions import NotDecomposable, balance, decompose_all
from vtp.decompositions.base import numerical_rank
from vtp.errors import UserError
from vtp.lowrank.allocation import ALLOCATIONS, Choices, Ranks
from vtp.lowrank.report import UnitReport
from vtp.lowrank.units import State, Unit, units
from vtp.models import Model, factorisable, from_state
from vtp.models.spec import Factor
from vtp.numerics import sqrt
from vtp.params import DecomposeParams
from vtp.times import Times

CURVE_POINTS = 33
ROUNDING = 1e-9  # of a product of all factors of an exact method, as a part of the matrix


@dataclass(frozen=True, eq=False)
class Decomposed:
    """A unit and its factors by the method, without the matrices on the way there, which are large.

    Attributes:
        unit: whose matrix W it is.
        errors: ‖P W S - left·right‖_F² of the truncation to rank 0, 1, …, k.
        spectrum: the singular values of P W S.
        left, right: the terms of the decomposition, (out, s) and (s, in) in float64, back from P W S to W, up to
            the largest rank that saves multiply-accumulates.
        seconds: what the decomposition took.
    """

    unit: Unit
    errors: Tensor
    spectrum: Tensor
    left: Tensor
    right: Tensor
    seconds: float

    @classmethod
    def of(cls, unit: Unit, matrix: Tensor, left: Tensor, right: Tensor, seconds: float) -> Self:
        """Keep what is needed of the decomposition left·right of P W S."""
        errors, spectrum = truncation_errors(left, right), torch.linalg.svdvals(matrix)
        missed = matrix - left @ right  # of a randomised method, and orthogonal to what it has found
        if missed.norm() > ROUNDING * matrix.norm():
            errors = errors + missed.square().sum()
        saves = unit.costs(np.arange(1.0, len(errors)), "macs") < unit.dense_cost("macs")
        most = int(np.count_nonzero(saves))
        kept = unit.metric.undo(left[:, :most].clone(), right[:most].clone())
        return cls(unit, errors, spectrum, *kept, seconds)

    def optimum_ratio(self, rank: int) -> float | None:
        """Return the error of the truncation over the least one at that rank; None where that is but rounding."""
        if numerical_rank(self.spectrum.numpy(), tuple(self.unit.matrix.shape)) <= rank:
            return None
        return math.sqrt(float(self.errors[rank])) / float(self.spectrum[rank:].norm())

    def curve(self) -> tuple[float, ...]:
        """Return the relative error at `CURVE_POINTS` ranks, evenly from 0 to k."""
        errors = self.errors
        ranks = torch.linspace(0, len(errors) - 1, CURVE_POINTS).round().long()
        return tuple(sqrt(errors[ranks] / errors[0].clamp_min(torch.finfo(errors.dtype).tiny)).tolist())

    def choices(self, budget: str) -> Choices:
        """Return the ranks that cost less than the dense unit, in `parameters`, `macs` or `latency`.

        In pivot form a rank may cost fewer parameters than the dense unit, but more MACs; those are left out.
        """
        costs = self.unit.costs(np.arange(1.0, len(self.right) + 1), budget)
        dense, errors = self.unit.dense_cost(budget), self.errors
        scale = 1.0 if self.unit.metric.is_shared or errors[0] == 0 else errors[0]
        saves = costs < dense
        return Choices(costs[saves], (errors[1 : len(costs) + 1] / scale).numpy()[saves], dense)

    def truncate(self, rank: int) -> tuple[Tensor, Tensor]:
        """Return balanced factors of Ŵ: (out, rank) and (rank, in), float64."""
        return balance(self.left[:, :rank], self.right[:rank])


def truncation_errors(left: Tensor, right: Tensor) -> Tensor:
    """Return ‖left·right - its truncation‖_F² to rank 0, 1, …, k, for factors (out, k) and (k, in).

    What is cut off is Σ lᵢrᵢᵀ over the last terms, whose squared norm is Σᵢⱼ (lᵢ·lⱼ)(rᵢ·rⱼ).
    """
    products = (left.T @ left) * (right @ right.T)
    terms = products.diagonal() + 2 * products.triu(1).sum(1)
    tails = terms.flip(0).cumsum(0).flip(0).clamp_min(0)
    return torch.cat([tails, tails.new_zeros(1)])


def factorise(
    model: Model,
    method: str,
    params: DecomposeParams,
    flows: Mapping[str, Moments],
    times: Times | None = None,
) -> tuple[Model, list[UnitReport]]:
    """Return `model` with its units factorised by `method`, and a report of each unit.

    Args:
        model: a model without factors, on the CPU; it stays as it is.
        method: a name in `vtp.decompositions.METHODS`, or `none`, which factorises nothing.
        params: the budget and how it is spent. A unit for which factors would save nothing, or that the method
            cannot decompose, stays dense; the budget is that of the units that the method can take.
        flows: what flows through every factorisable layer.
        times: what the layers cost in time, for the budget `latency`, of which `keep` is a part of the whole.
    """
    state = dict(model.state_dict())
    all_units = units(factorisable(model), flows, params, times)
    whole = times.total if times and params.budget == "latency" else None
    factors, reports = factorise_units(all_units, state, method, params, whole)
    return from_state(replace(model.spec, factors=factors), state), reports


def factorise_units(
    all_units: Mapping[str, Unit],
    state: State,
    method: str,
    params: DecomposeParams,
    whole: float | None = None,
) -> tuple[dict[str, Factor], list[UnitReport]]:
    """Put factors in place of matrices in `state`; return what a spec says of them, and a report of each unit.

    Takes and raises what `factorise` does; `whole` is a cost of which `keep` is a part, None: that of the units.
    """
    decomposed, reasons = _decompose_all(all_units, method)
    ranks = _ranks(decomposed, params, whole)
    factors: dict[str, Factor] = {}
    reports = []
    for name, unit in all_units.items():
        rank = ranks.get(name)
        if rank is None:
            report = unit.report(None, unit.matrix)
            reports.append(
                replace(report, reason=reasons.get(name) or _why_dense(decomposed[name], params.budget))
            )
            continue
        entry = decomposed[name]
        left, right = entry.truncate(rank)
        factors |= unit.write(state, left, right)
        report = unit.report(rank, left @ right)
        ratio, curve = entry.optimum_ratio(rank), entry.curve()
        predicted = float(entry.errors[rank]) / 2 if unit.metric.is_shared else None
        reports.append(
            replace(report, optimum_ratio=ratio, curve=curve, predicted_loss=predicted, seconds=entry.seconds)
        )
    return factors, reports


def _why_dense(entry: Decomposed, budget: str) -> str:
    """Return why a unit that the method has decomposed stays dense."""
    return "the budget leaves it dense" if len(entry.choices(budget).costs) else "factors would save nothing"


def _decompose_all(all_units: Mapping[str, Unit], method: str) -> tuple[dict[str, Decomposed], dict[str, str]]:
    """Return unit -> decomposition for those that have one, and unit -> reason for the others.

    A few units at a time: the roots of all metrics at once would take several times the model's memory.
    """
    if method == "none":
        return {}, dict.fromkeys(all_units, "the method none factorises nothing")
    decomposed, reasons = {}, {}
    to_come = Counter(root for unit in all_units.values() for root in unit.metric.roots)
    names = list(all_units)
    some = torch.get_num_threads()
    for start in tqdm(range(0, len(names), some), "decomposing", disable=None):
        matrices = {
            name: all_units[name].metric.apply(all_units[name].matrix) for name in names[start : start + some]
        }
        for name, (record, seconds) in decompose_all(matrices, method).items():
            unit = all_units[name]
            if isinstance(record, NotDecomposable):
                reasons[name] = str(record)
            else:
                decomposed[name] = Decomposed.of(unit, matrices[name], *record.factors, seconds)
            to_come.subtract(unit.metric.roots)
            for root in unit.metric.roots:
                if not to_come[root]:
                    root.release()
    return decomposed, reasons


def _ranks(decomposed: Mapping[str, Decomposed], params: DecomposeParams, whole: float | None) -> Ranks:
    choices = {name: entry.choices(params.budget) for name, entry in decomposed.items()}
    if not choices:
        return {}
    dense, keep = sum(unit.dense for unit in choices.values()), params.keep
    least = sum(unit.least for unit in choices.values()) / dense
    if whole is not None:  # what the whole costs beside these units stays
        keep, least = 1 - (1 - keep) * whole / dense, 1 - (1 - least) * dense / whole
    if params.keep < least:
        allowed = min(1.0, math.ceil(1e4 * least) / 1e4)
        raise UserError(
            f"keep is {params.keep:.4g}, but must be at least {allowed:.4f} for this model: "
            "each layer at rank 1, or dense where that saves nothing"
        )
    return ALLOCATIONS[params.allocation](choices, keep)
