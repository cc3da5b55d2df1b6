"""Which inner dims of a model stay, chosen by what they do to the loss, without scores and without training.

Where nothing but products lies between the layer that makes dims and the one that reads them, any basis of them
gives the same model: queries R q with keys R⁻ᵀ k, values R v with an output of W R⁻¹. The basis is taken in which
dims can be left out one after another at the least loss. With Σ the second moment of the dims and G that of the
gradients by them, a map Π of rank r in place of the identity costs ‖G^½ (I - Π) Σ^½‖²; so the singular vectors of
G^½ Σ^½ are that basis, and the squares of its singular values say what each dim is worth. Of dims behind an
activation those are left out, a few at a time, whose loss the others can best make up for (OBS, Hassibi & Stork,
1993, in the Fisher metric of the reader's outputs). All sites share one budget, and one unit: nats of the
predictions.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from vtp.calibration.moments import Moments
from vtp.calibration.roots import gradient_ridge, square_root
from vtp.knapsack import Table, solve
from vtp.models import FAMILIES, Model, ModelSpec, factorisable, from_state
from vtp.models.family import Inner, State
from vtp.numerics import sqrt

RIDGE = 1e-6  # of the mean, on the diagonal of a moment that is inverted: rounding, and dims that nothing moves
STEPS = 128  # in which dims behind an activation go


@dataclass(frozen=True, eq=False)
class Options:
    """What an inner site can become.

    Attributes:
        inner: the site.
        masks: one for each option, bool (dims,), the last with all dims.
        costs: weights of maker and reader that each option keeps.
        errors: twice the loss that it is expected to add, nats.
    """

    inner: Inner
    masks: Sequence[Tensor]
    costs: Sequence[float]
    errors: Sequence[float]

    def report(self, index: int) -> "InnerReport":
        """Return what the site becomes by an option."""
        heads, kept = self.inner.heads, int(self.masks[index].sum())
        return InnerReport(
            site=self.inner.site,
            heads=len(heads),
            dims=sum(heads),
            kept=kept,
            predicted_loss=self.errors[index] / 2,
        )


@dataclass(frozen=True, kw_only=True)
class InnerReport:
    """What became of the dims of one site.

    Attributes:
        site: its name.
        heads, dims: how many of both it had.
        kept: how many dims stay.
        predicted_loss: nats that the predictions are expected to move by that.
    """

    site: str
    heads: int
    dims: int
    kept: int
    predicted_loss: float


@dataclass(frozen=True, eq=False)
class Narrowing:
    """A model in the bases in which its inner dims can go, and what each site can become."""

    spec: ModelSpec
    state: State
    weights: int
    sites: Sequence[Options]

    @classmethod
    def of(cls, model: Model, flows: Mapping[str, Moments], step: int = 1) -> Self:
        """Prepare a model without scores and factors, which stays as it is; all is on the CPU from here on.

        A multiple of `step` dims stays, of each head or behind an activation, or all.
        """
        state = {name: tensor.cpu().clone() for name, tensor in model.state_dict().items()}
        sites = [_options(state, inner, flows, step) for inner in FAMILIES[model.spec.name].inner(model.spec)]
        return cls(model.spec, state, weights(model), sites)

    def to(self, keep: float) -> tuple[Model, list[InnerReport]]:
        """Return the model with the inner dims that lose least, and what became of each site.

        The heads of a site keep equally many dims, so that they still share one batched product. What writes to
        the residual stream is not refitted yet (`corrected`): the loss expected is the one after that.

        Args:
            keep: fraction of the weights of the blocks' layers that stays; one dim a head stays at least.
        """
        outside = self.weights - sum(site.costs[-1] for site in self.sites)
        least = sum(min(site.costs) for site in self.sites)
        tables = [Table(np.array(site.costs), np.array(site.errors)) for site in self.sites]
        chosen = solve(tables, max(keep * self.weights - outside, least))
        masks = {site.inner.site: site.masks[index] for site, index in zip(self.sites, chosen, strict=True)}
        state = dict(self.state)
        spec = FAMILIES[self.spec.name].slim(self.spec, state, masks)
        reports = [site.report(index) for site, index in zip(self.sites, chosen, strict=True)]
        return from_state(spec, state), reports


def weights(model: Model) -> int:
    """Return how many weights the layers inside the blocks have."""
    return sum(layer.weight.numel() for layer in factorisable(model).values())


def _options(state: State, inner: Inner, flows: Mapping[str, Moments], step: int) -> Options:
    """Return what the site can become; where dims may be mixed, they are brought into their basis in `state`."""
    if inner.read_as == "activations":
        return _left_out(state, inner, flows[inner.reader], step)
    heads, start = [], 0
    for dims in inner.heads:
        heads.append(slice(start, start + dims))
        start += dims
    worth = [_rotate(state, inner, head, flows) for head in heads]
    return _truncated(state, inner, worth, step)


def _rotate(state: State, inner: Inner, head: slice, flows: Mapping[str, Moments]) -> Tensor:
    """Bring the dims of a head into their basis; return what each is worth (dims,), largest first."""
    maker, reader = (state[f"{name}.weight"].double() for name in (inner.maker, inner.reader))
    bias = state.get(f"{inner.maker}.bias")
    if inner.read_as == "columns":
        flow = flows[inner.reader]
        gradients = reader[:, head].T @ _ridged(flow) @ reader[:, head]
        squares = flow.inputs.covariance[head, head]  # the mean goes into the reader's bias
    else:
        flow = flows[inner.maker]
        gradients = _ridged(flow)[head, head]
        mean = maker[head] @ flow.inputs.mean + (0 if bias is None else bias[head].double())
        squares = maker[head] @ flow.inputs.covariance @ maker[head].T + torch.outer(mean, mean)
    unit = float(gradients.diagonal().mean()) or 1.0  # where hardly any gradient comes, products underflow
    gradients = gradients / unit
    (left_root, left_inverse), (right_root, right_inverse) = (_root(each) for each in (gradients, squares))
    U, Sigma, V = torch.linalg.svd(left_root @ right_root)
    scale = sqrt(Sigma.clamp_min(torch.finfo(Sigma.dtype).tiny))
    make, read = scale[:, None] * (V @ right_inverse), left_inverse @ (U * scale)  # read · make is the identity
    state[f"{inner.maker}.weight"][head] = (make @ maker[head]).to(state[f"{inner.maker}.weight"])
    if bias is not None:
        bias[head] = (make @ bias[head].double()).to(bias)
    target = state[f"{inner.reader}.weight"]
    if inner.read_as == "columns":
        target[:, head] = (reader[:, head] @ read).to(target)
    else:
        target[head] = (read.T @ reader[head]).to(target)
    worth: Tensor = Sigma.square() * unit
    return worth


def _truncated(state: State, inner: Inner, worth: Sequence[Tensor], step: int) -> Options:
    """Return the options of a site whose dims are in order within each head: equally many of each."""
    cost, most = _cost_of_a_dim(state, inner), max(inner.heads)
    counts = [*range(step, most, step), most]
    masks = [torch.cat([torch.arange(dims) < count for dims in inner.heads]) for count in counts]
    errors = [float(sum(each[count:].sum() for each in worth)) for count in counts]
    return Options(inner, masks, [cost * int(mask.sum()) for mask in masks], errors)


def _left_out(state: State, inner: Inner, flow: Moments, step: int) -> Options:
    """Return the options of a site behind an activation, from `step` dims to all.

    A convolution reads a dim by several columns, which go together. A set J of columns of W costs
    tr(W_J ([Σ⁻¹]_JJ)⁻¹ W_Jᵀ) once the other columns make up for it, and leaves W and Σ⁻¹ without it, both updated.
    """
    weight = state[f"{inner.reader}.weight"]
    (dims,), columns = inner.heads, weight[0, 0].numel()
    left = square_root(_ridged(flow))[0] @ weight.double().flatten(1)
    inverse = torch.linalg.inv(_with_ridge(flow.inputs.covariance))
    mask, error = torch.ones(dims, dtype=torch.bool), 0.0
    masks, errors = [mask.clone()], [0.0]
    most = step * math.ceil(dims / STEPS / step)
    while len(alive := mask.nonzero().flatten()) > step:
        some = len(alive) % step or min(most, len(alive) - step)
        gone = alive[_each_alone(left, inverse, alive, columns).argsort(stable=True)[:some]]
        index = (gone[:, None] * columns + torch.arange(columns)).flatten()
        made_up = torch.linalg.solve(inverse[index][:, index], inverse[index])
        error += float((left[:, index] @ torch.linalg.inv(inverse[index][:, index]) * left[:, index]).sum())
        left -= left[:, index] @ made_up
        inverse -= inverse[:, index] @ made_up
        mask[gone] = False
        masks.append(mask.clone())
        errors.append(error)
    cost = _cost_of_a_dim(state, inner)
    return Options(inner, masks[::-1], [cost * int(each.sum()) for each in masks[::-1]], errors[::-1])


def _each_alone(left: Tensor, inverse: Tensor, alive: Tensor, columns: int) -> Tensor:
    """Return what each of the dims that are left costs if it goes alone."""
    index = alive[:, None] * columns + torch.arange(columns)
    blocks = inverse[index[:, :, None], index[:, None, :]]
    lost = left.T[index]  # dims, columns, outputs
    made_up: Tensor = torch.linalg.solve(blocks, lost) * lost
    return made_up.sum((1, 2))


def _cost_of_a_dim(state: State, inner: Inner) -> float:
    sizes = (state[f"{name}.weight"].numel() for name in (inner.maker, inner.reader))
    return sum(sizes) / sum(inner.heads)


def _ridged(flow: Moments) -> Tensor:
    gradients = flow.gradients
    return gradients + gradient_ridge(flow) * torch.eye(len(gradients), dtype=gradients.dtype)


def _with_ridge(squares: Tensor) -> Tensor:
    """Return the moment with a ridge that lets it be inverted, also where nothing flows at all."""
    mean = float(squares.diagonal().mean())
    ridge = RIDGE * mean if mean > 0 else 1.0
    return squares + ridge * torch.eye(len(squares), dtype=squares.dtype)


def _root(squares: Tensor) -> tuple[Tensor, Tensor]:
    return square_root(_with_ridge(squares))
