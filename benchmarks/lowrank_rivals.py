"""Published low-rank methods, each in its own way and none in ours: pairs of factors, no correction, no training.

Each method is a function of what is `Given` that does what it does once, and returns what makes the model of a
budget. Written from the ideas in the papers.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.trained_models import Given
from vtp.calibration.roots import square_root
from vtp.calibration.watching import BATCH, input_rows, watched
from vtp.decompositions import balance
from vtp.lowrank.allocation import Choices, Ranks, uniform
from vtp.measure import logits
from vtp.models import Model, factorisable, from_state
from vtp.models.spec import Factor

Make = Callable[[float], Model]
SEARCHED = 256  # calibration images on which ranks are searched for
RATIOS = [tenth / 10 for tenth in range(1, 10)]


class Pairs:
    """The terms of every layer's decomposition, of which any number can be kept.

    Args:
        dense: the model.
        left, right: (out, k) and (k, in) of each layer, float64, the most important terms first.
        means: of each layer's inputs, (in,), where the mean error of the output goes into a bias; may be empty.
    """

    def __init__(
        self, dense: Model, left: dict[str, Tensor], right: dict[str, Tensor], means: dict[str, Tensor]
    ) -> None:
        self.dense, self.left, self.right, self.means = dense, left, right, means
        self.choices = {name: self._choices(name, layer) for name, layer in factorisable(dense).items()}

    def _choices(self, name: str, layer: nn.Module) -> Choices:
        rows, columns = self.left[name].shape[0], self.right[name].shape[1]
        gained = rows if name in self.means and layer.bias is None else 0
        costs = np.arange(1.0, self.left[name].shape[1] + 1) * (rows + columns) + gained
        costs = costs[costs < rows * columns]
        return Choices(costs, np.zeros_like(costs), float(rows * columns))

    @property
    def dense_cost(self) -> float:
        """Parameters of the layers as they are."""
        return sum(choices.dense for choices in self.choices.values())

    def cost(self, ranks: Ranks) -> float:
        """Return the parameters of these layers at these ranks; None: dense."""
        total = 0.0
        for name, rank in ranks.items():
            choices = self.choices[name]
            total += choices.dense if rank is None else float(choices.costs[rank - 1])
        return total

    @torch.no_grad()
    def model(self, ranks: Ranks) -> Model:
        """Return the model with these ranks; layers of rank None, or that are not named, stay dense."""
        state, factors = dict(self.dense.state_dict()), dict[str, Factor]()
        for name, rank in ranks.items():
            if rank is None:
                continue
            weight, bias = state.pop(f"{name}.weight"), state.pop(f"{name}.bias", None)
            left, right = balance(self.left[name][:, :rank], self.right[name][:rank])
            state[f"{name}.left.weight"], state[f"{name}.right.weight"] = left.to(weight), right.to(weight)
            if name in self.means:
                shift = (weight.double() - left @ right) @ self.means[name]
                bias = shift if bias is None else bias.double() + shift
            if bias is not None:
                state[f"{name}.left.bias"] = bias.to(weight)
            factors[name] = Factor(rank, bias is not None)
        return from_state(replace(self.dense.spec, factors=factors), state)

    def equal_ratio(self, keep: float) -> Model:
        """Return the model of which each layer keeps that fraction of its parameters."""
        return self.model(uniform(self.choices, keep))

    def scaled(self, ratios: dict[str, float], keep: float) -> Model:
        """Return the model whose layers keep parameters in proportion to `ratios`, as many as the budget has."""

        def at(scale: float) -> Ranks:
            ranks: Ranks = {}
            carried = 0.0  # by rounding, to the next layer: layers of one ratio would all jump at once
            for name, choices in self.choices.items():
                wanted = min(scale * ratios[name], 1.0) * choices.dense + carried
                ranks[name] = None if wanted >= choices.dense else max(1, int((choices.costs <= wanted).sum()))
                carried = wanted - self.cost({name: ranks[name]})
            return ranks

        return self.model(at(largest(lambda scale: self.cost(at(scale)) <= keep * self.dense_cost, 0.0, 10.0)))


def largest(holds: Callable[[float], bool], low: float, high: float) -> float:
    """Return the largest number between the two for which something holds that holds below it."""
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def scaled_svd(
    dense: Model, rows: dict[str, Tensor] | None = None, columns: dict[str, Tensor] | None = None
) -> Pairs:
    """Return the SVD of every weight, of which rows and columns are weighted first and unweighted after."""
    left, right = {}, {}
    for name, layer in factorisable(dense).items():
        weight = layer.weight.detach().double()
        row = rows[name] if rows else torch.ones(weight.shape[0], dtype=torch.float64)
        column = columns[name] if columns else torch.ones(weight.shape[1], dtype=torch.float64)
        U, Sigma, V = torch.linalg.svd(row[:, None] * weight * column, full_matrices=False)
        left[name], right[name] = U * Sigma / row[:, None], V / column
    return Pairs(dense, left, right, {})


def whitened_svd(given: Given) -> Pairs:
    """Return the SVD of every weight times the root of its inputs' covariance."""
    left, right, means = {}, {}, {}
    flows = given.flows()
    for name, layer in factorisable(given.dense).items():
        root, inverse = square_root(flows[name].inputs.covariance)
        U, Sigma, V = torch.linalg.svd(layer.weight.detach().double() @ root, full_matrices=False)
        left[name], right[name], means[name] = U * Sigma, V @ inverse, flows[name].inputs.mean
    return Pairs(given.dense, left, right, means)


def plain_svd(given: Given) -> Make:
    """SVD of the weights with one ratio for all layers: the start of PELA (CVPR 2024, arXiv:2310.10700)."""
    return scaled_svd(given.dense).equal_ratio


def fwsvd(given: Given) -> Make:
    """FWSVD (arXiv:2207.00112): rows of a weight count as the Fisher information of their entries, by labels."""
    layers = factorisable(given.dense)
    fisher = {name: torch.zeros(layer.weight.shape[0], dtype=torch.float64) for name, layer in layers.items()}
    for images, labels in zip(given.images.split(BATCH), given.labels.split(BATCH), strict=True):
        with watched(layers) as seen:
            loss = F.cross_entropy(given.dense(images), labels, reduction="sum")
            gradients = torch.autograd.grad(loss, [output for _, output in seen.values()])
        for (name, (read, _)), gradient in zip(seen.items(), gradients, strict=True):
            of_image = torch.einsum("bto,bti->boi", gradient, read.detach())
            fisher[name] += of_image.square().sum((0, 2)).double()
    return scaled_svd(given.dense, rows={name: positive(each).sqrt() for name, each in fisher.items()}).equal_ratio


def asvd(given: Given) -> Make:
    """ASVD (arXiv:2312.05821): columns count as the mean size of their input, to the power of a half.

    Ratios by its search: each layer alone is cut to each of nine ratios and the loss measured, with labels; then
    all cuts that raise it less than a threshold are made.
    """
    layers = factorisable(given.dense)
    sizes = {name: torch.zeros(layer.weight.shape[1], dtype=torch.float64) for name, layer in layers.items()}
    with torch.no_grad():
        for images in given.images.split(BATCH):
            with watched(layers) as seen:
                given.dense(images)
            for name, (read, _) in seen.items():
                rows = input_rows(layers[name], read).double().abs()
                sizes[name] += rows.mean(0) * len(images) / len(given.images)
    pairs = scaled_svd(given.dense, columns={name: positive(each).sqrt() for name, each in sizes.items()})
    images, labels = given.images[:SEARCHED], given.labels[:SEARCHED]
    losses = []
    for name, choices in pairs.choices.items():
        for ratio in RATIOS:
            rank = max(1, int((choices.costs <= ratio * choices.dense).sum()))
            loss = F.cross_entropy(logits(pairs.model({name: rank}), images).double(), labels)
            losses.append((float(loss), name, ratio))
    losses.sort()

    def make(keep: float) -> Model:
        ratios = dict.fromkeys(layers, 1.0)
        for _, name, ratio in losses:
            if sum(ratios[each] * pairs.choices[each].dense for each in layers) <= keep * pairs.dense_cost:
                break
            ratios[name] = min(ratios[name], ratio)
        return pairs.scaled(ratios, keep)

    return make


def svd_llm(given: Given) -> Make:
    """SVD-LLM (arXiv:2403.07378): the least error of each layer's output, one ratio for all layers."""
    return whitened_svd(given).equal_ratio


def flar_svd(given: Given) -> Make:
    """FLAR-SVD (CVPR workshops 2025): the same factors, ranks by what each does to the last feature.

    Each layer gets the least rank at which it alone changes the head's input by no more than a threshold, which is
    the same for all; here it is the threshold that meets the budget. Its adjustment to measured latencies is left
    out, as the budget is one of parameters.
    """
    pairs, images = whitened_svd(given), given.images[:SEARCHED]
    expected = last_feature(given.dense, images)
    found: dict[tuple[str, int], float] = {}

    def error(name: str, rank: int) -> float:
        if (name, rank) not in found:
            feature = last_feature(pairs.model({name: rank}), images)
            found[name, rank] = float((feature - expected).square().mean() / feature.square().mean())
        return found[name, rank]

    def ranks(threshold: float) -> Ranks:
        chosen: Ranks = {}
        for name, choices in pairs.choices.items():
            low, high = 1, len(choices.costs) + 1
            while low < high:
                middle = (low + high) // 2
                low, high = (low, middle) if error(name, middle) <= threshold else (middle + 1, high)
            chosen[name] = low if low <= len(choices.costs) else None
        return chosen

    def make(keep: float) -> Model:
        budget = keep * pairs.dense_cost
        exponent = largest(lambda exponent: pairs.cost(ranks(10**-exponent)) <= budget, -2.0, 12.0)
        return pairs.model(ranks(10**-exponent))

    return make


@torch.no_grad()
def last_feature(model: Model, images: Tensor) -> Tensor:
    """Return what the head reads, (N, features)."""
    features = []
    with watched({"head": model.get_submodule("head")}) as seen:
        for batch in images.split(BATCH):
            model(batch)
            features.append(seen["head"][0].double())
    return torch.cat(features)


def positive(weights: Tensor) -> Tensor:
    """Return the weights, none of them so small that it could not be divided by again."""
    return weights.clamp_min(1e-6 * float(weights.max()))
