"""Published methods that leave out dims of vision transformers, and a smaller model that was trained as long.

As in `benchmarks.lowrank_rivals`, each is a function of what is `Given` and returns what makes the model of a
budget: None, where the method cannot leave out as much. Written from the ideas in the papers.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from benchmarks.trained_models import Given, baseline
from vtp.calibration.moments import Inputs
from vtp.calibration.watching import BATCH, watched
from vtp.cost import parameters
from vtp.models import FAMILIES, Model, factorisable, from_state, initialised
from vtp.models.family import Masks, State
from vtp.models.vit.spec import HeadSpec, ViTSpec

Make = Callable[[float], Model | None]
RIDGE = 1e-6  # of the mean eigenvalue: rounding


def vbp(given: Given) -> Make:
    """VBP (arXiv:2507.12988): the hidden dims of least variance go from the MLPs, their mean into the bias.

    From each MLP equally many: ranked over all MLPs together, they lost more in every case tried here.
    """
    spec, flows = cast(ViTSpec, given.dense.spec), given.flows()

    def make(keep: float) -> Model | None:
        hidden = spread_evenly(total_hidden(spec, given.budget(keep)), len(spec.blocks))
        if min(hidden) < 1:
            return None
        state, masks = copied(given.dense), dict[str, Tensor]()
        for index, count in enumerate(hidden):
            mlp = f"blocks.{index}.mlp"
            inputs = flows[f"{mlp}.down"].inputs
            mask = leading(inputs.covariance.diagonal(), count)
            nothing = torch.zeros(int((~mask).sum()), count, dtype=torch.float64)
            absorb(state, f"{mlp}.down", mask, inputs, nothing)
            masks[f"{mlp}.hidden"] = mask
        return cut(spec, state, masks)

    return make


def corp(given: Given) -> Make:
    """CORP (arXiv:2602.05243): equal parts of the dims of queries and keys and of the MLPs, by their energy.

    A hidden dim that goes is an affine function of those that stay, by ridge regression; what a dim of queries and
    keys gave to the attention's logits is given by those that stay, mixed on both sides. One pass, no labels.
    """
    spec, flows = cast(ViTSpec, given.dense.spec), given.flows()
    active = active_rates(given.dense, given.images)
    weights = {name: layer.weight.numel() for name, layer in factorisable(given.dense).items()}
    fixed = sum(size for name, size in weights.items() if name.endswith((".value", ".output")))
    prunable = sum(weights.values()) - fixed

    def make(keep: float) -> Model | None:
        share = (keep * sum(weights.values()) - fixed) / prunable
        shape = shaped(spec, spec.dim, max(1, round(share * spec.head_dim)), spec.head_dim)
        hidden = spread_evenly(total_hidden(shape, given.budget(keep)), len(spec.blocks))
        if min(hidden) < 1:
            return None
        state, masks = copied(given.dense), dict[str, Tensor]()
        for index, count in enumerate(hidden):
            block = f"blocks.{index}"
            flow = flows[f"{block}.mlp.down"]
            energy = flow.inputs.covariance.diagonal() + flow.inputs.mean.square()
            mask = leading(energy * active[f"{block}.mlp.down"], count)
            rows = len(given.images) * flow.positions
            absorb(state, f"{block}.mlp.down", mask, flow.inputs, regression(flow.inputs.covariance, mask, rows))
            masks[f"{block}.mlp.hidden"] = mask
            masks[f"{block}.attention.value"] = torch.ones(sum(head.v for head in spec.blocks[index].heads)) > 0
            masks[f"{block}.attention.query_key"] = mix_logits(
                state,
                f"{block}.attention",
                [head.qk for head in spec.blocks[index].heads],
                shape.blocks[index].heads[0].qk,
                (flows[f"{block}.attention.query"].inputs, flows[f"{block}.attention.key"].inputs),
            )
        return cut(spec, state, masks)

    return make


def mix_logits(
    state: State, attention: str, heads: Sequence[int], count: int, inputs: tuple[Inputs, Inputs]
) -> Tensor:
    """Let `count` dims of each head's queries and keys give what all gave; return which, a mask of all dims.

    With G the second moments of the dims that stay and C those with the dims that go, queries Uᵀq and keys Vᵀk
    have logits qᵀ (I + M) k for U Vᵀ = I + M, which are nearest where G_q M G_k = C_q C_kᵀ, queries and keys
    being independent.
    """
    names = [f"{attention}.{part}" for part in ("query", "key")]
    squares = [second_moment(state, name, each) for name, each in zip(names, inputs, strict=True)]
    masks, start = [], 0
    for dims in heads:
        head = slice(start, start + dims)
        q, k = (each[head, head] for each in squares)
        mask = leading(q.diagonal() * k.diagonal(), count)
        (q_values, q_basis), (k_values, k_basis) = (torch.linalg.eigh(each[mask][:, mask]) for each in (q, k))
        wanted = q_basis.T @ (q[mask][:, ~mask] @ k[~mask][:, mask]) @ k_basis
        ridge = RIDGE * q_values.mean() * k_values.mean()
        M = q_basis @ (wanted / (torch.outer(q_values, k_values) + ridge)) @ k_basis.T
        U, Sigma, V = torch.linalg.svd(torch.eye(count, dtype=M.dtype) + M)
        for name, mix in zip(names, (U * Sigma.sqrt(), V.T * Sigma.sqrt()), strict=True):
            for tensor in (state[f"{name}.weight"], state.get(f"{name}.bias")):
                if tensor is not None:
                    index = start + mask.nonzero().flatten()
                    tensor[index] = (mix.T @ tensor[index].double()).to(tensor)
        masks.append(mask)
        start += dims
    return torch.cat(masks)


def smaller(given: Given) -> Make:
    """A dense model of fewer dims everywhere, trained from the start as the dense one was."""
    spec, dense = cast(ViTSpec, given.dense.spec), given.dense

    def make(keep: float) -> Model:
        dim, head_dim = (max(1, round(size * keep**0.5)) for size in (spec.dim, spec.head_dim))
        shape = shaped(spec, dim, head_dim, head_dim)
        hidden = spread_evenly(total_hidden(shape, given.budget(keep)), len(spec.blocks))
        blocks = [replace(block, hidden=count) for block, count in zip(shape.blocks, hidden, strict=True)]
        pixels = (tuple(each.tolist()) for each in (dense.mean, dense.std))
        start = initialised(replace(shape, head_dim=head_dim, blocks=tuple(blocks)), given.seed, *pixels)
        return baseline(start, given.params, given.dataset, given.seed)

    return make


def total_hidden(spec: ViTSpec, budget: int) -> int:
    """Return how many hidden dims all blocks together must have so that the model has so many parameters."""
    each = 2 * spec.dim + 1
    return round((budget - parameters(spec)) / each) + sum(block.hidden for block in spec.blocks)


def shaped(spec: ViTSpec, dim: int, dims_qk: int, dims_v: int) -> ViTSpec:
    """Return the spec with another width and other heads."""
    head = HeadSpec(dims_qk, dims_v)
    blocks = tuple(replace(block, heads=(head,) * len(block.heads)) for block in spec.blocks)
    return replace(spec, dim=dim, blocks=blocks)


def spread_evenly(total: int, parts: int) -> list[int]:
    """Return numbers that differ by one at most and sum to `total`."""
    return [total // parts + (index < total % parts) for index in range(parts)]


def leading(scores: Tensor, count: int) -> Tensor:
    """Return the mask of the `count` largest scores."""
    mask = torch.zeros(len(scores), dtype=torch.bool)
    mask[scores.argsort(descending=True)[:count]] = True
    return mask


def copied(model: Model) -> State:
    """Return the state, to be changed."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def cut(spec: ViTSpec, state: State, masks: Masks) -> Model:
    """Return the model of the dims that the masks keep."""
    return from_state(FAMILIES[spec.name].slim(spec, state, masks), state)


def absorb(state: State, layer: str, mask: Tensor, inputs: Inputs, maps: Tensor) -> None:
    """Let the inputs of a layer that stay stand for those that go, which are `maps` (gone, kept) of them."""
    weight, bias = (state[f"{layer}.{kind}"].double() for kind in ("weight", "bias"))
    lost = weight[:, ~mask]
    bias = bias + lost @ (inputs.mean[~mask] - maps @ inputs.mean[mask])
    weight[:, mask] += lost @ maps
    state[f"{layer}.weight"], state[f"{layer}.bias"] = weight.float(), bias.float()


def regression(covariance: Tensor, mask: Tensor, rows: int) -> Tensor:
    """Return the map (gone, kept) from dims that stay to those that go, with a ridge by oracle shrinkage."""
    squares = covariance[mask][:, mask]
    size, trace, total = len(squares), float(squares.trace()), float(squares.square().sum())
    spread = (rows + 1 - 2 / size) * (total - trace**2 / size)
    shrunk = min(1.0, ((1 - 2 / size) * total + trace**2) / spread) if spread > 0 else 1.0
    ridged = squares + (shrunk * trace / size) * torch.eye(size, dtype=squares.dtype)
    found: Tensor = torch.linalg.solve(ridged, covariance[mask][:, ~mask]).T
    return found


def second_moment(state: State, layer: str, inputs: Inputs) -> Tensor:
    """Return the second moment of what a layer gives, (out, out)."""
    weight, bias = state[f"{layer}.weight"].double(), state.get(f"{layer}.bias")
    mean = weight @ inputs.mean + (0 if bias is None else bias.double())
    return weight @ inputs.covariance @ weight.T + torch.outer(mean, mean)


@torch.no_grad()
def active_rates(model: Model, images: Tensor) -> dict[str, Tensor]:
    """Return how often each hidden dim of each MLP is above a hundredth of the root mean square of all."""
    names = [f"blocks.{index}.mlp.down" for index in range(len(model.blocks))]
    rates = dict.fromkeys(names, torch.zeros(()))
    for batch in images.split(BATCH):
        with watched({name: model.get_submodule(name) for name in names}) as seen:
            model(batch)
        for name, (read, _) in seen.items():
            active = read.abs() > 0.01 * read.square().mean().sqrt()
            rates[name] = rates[name] + active.float().mean((0, 1)) * len(batch) / len(images)
    return rates
