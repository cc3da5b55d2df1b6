"""What flows through each layer on calibration images: moments of its inputs and of the gradients of its outputs.

No labels are used.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vtp.calibration import BATCH, input_rows, output_rows, watched
from vtp.models import Model, factorisable

Sums = tuple[Tensor, Tensor, int]


@dataclass(frozen=True)
class Moments:
    """First and second moments of a layer's inputs, over all images and positions, and of its outputs' gradients.

    Attributes:
        mean: (in,), float64.
        covariance: (in, in), float64, about the mean; singular where inputs are dead or fewer than dimensions.
        positions: how many input rows the layer sees for each image (tokens, or pixels of its output).
        gradients: (out, out), float64, the mean over images of Σ g gᵀ over positions, where g is the gradient of
            the loss by the output; None where it was not asked for (`with_gradients`).
    """

    mean: Tensor
    covariance: Tensor
    positions: int
    gradients: Tensor | None = None


def moments(model: Model, images: Tensor) -> dict[str, Moments]:
    """Return layer -> moments of the inputs of every factorisable layer, on the CPU.

    Args:
        model: on the device of `images`; it runs in evaluation mode.
        images: uint8 (N, C, H, W).

    Sums are kept in float64, of the differences from the first row that a layer sees: rounding would hide which
    directions carry nothing, in float32 or beside a large mean. Layers that read the same tensor (query, key
    and value) share one sum.
    """
    layers = factorisable(model)
    sums: dict[str, Sums] = {}
    origins: dict[str, Tensor] = {}
    latest: list[tuple[Tensor, Tensor, Sums]] = []

    def add(name: str, layer: nn.Module, inputs: Tensor) -> None:
        if not (latest and latest[0][0] is inputs):
            rows = input_rows(layer, inputs).double()
            origin = origins.get(name, rows[0].clone())
            latest[:] = [(inputs, origin, _sums(rows - origin))]
        _, origins[name], (total, squares, count) = latest[0]
        before = sums.get(name, (0.0, 0.0, 0))
        sums[name] = (before[0] + total, before[1] + squares, before[2] + count)

    hooks = [
        layer.register_forward_pre_hook(lambda layer, inputs, name=name: add(name, layer, inputs[0]))
        for name, layer in layers.items()
    ]
    try:
        with torch.no_grad():
            for batch in images.split(BATCH):
                model.eval()(batch)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: _moments(origins[name], *sums[name], len(images)) for name in layers}


def with_gradients(flows: Mapping[str, Moments], model: Model, images: Tensor, seed: int) -> dict[str, Moments]:
    """Return `flows` with the second moments of the gradients of each layer's outputs.

    The loss is the cross entropy of labels drawn from the model's own predictions, by `seed`: the mean of the
    gradients' products is then the Fisher information (K-FAC, arXiv:1503.05671; for positions that share a
    weight, arXiv:1602.01407), which says how fast the predictions move away from those of the model.
    """
    layers = factorisable(model)
    sums = {name: torch.zeros((), dtype=torch.float64, device=images.device) for name in layers}
    generator = torch.Generator().manual_seed(seed)
    with watched(layers) as seen:
        for batch in images.split(BATCH):
            logits = model.eval()(batch)
            drawn = torch.multinomial(logits.detach().float().softmax(1).cpu(), 1, generator=generator)[:, 0]
            loss = F.cross_entropy(logits, drawn.to(logits.device), reduction="sum")
            gradients = torch.autograd.grad(loss, [seen[name][1] for name in layers])
            for name, gradient in zip(layers, gradients, strict=True):
                rows = output_rows(gradient).double()
                sums[name] = sums[name] + rows.T @ rows
    return {name: replace(flow, gradients=(sums[name] / len(images)).cpu()) for name, flow in flows.items()}


def _sums(rows: Tensor) -> Sums:
    return rows.sum(0), rows.T @ rows, len(rows)


def _moments(origin: Tensor, total: Tensor, squares: Tensor, count: int, images: int) -> Moments:
    shift = total / count
    covariance = squares / count - torch.outer(shift, shift)
    return Moments((origin + shift).cpu(), covariance.cpu(), count // images)
