"""What flows through each layer on calibration images: moments of its inputs and of the gradients of its outputs.

No labels are used. The moments of a model are computed once, for all methods, and kept in one sealed file.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vtp.calibration.watching import BATCH, first_readers, input_rows, output_rows, watched
from vtp.errors import UserError
from vtp.models import Model, factorisable, in_batches
from vtp.numerics import sqrt
from vtp.sealed import read_sealed, write_sealed

KEPT = 2  # tensors of a model's largest size that a block keeps for its gradients


@dataclass(frozen=True, eq=False)
class Inputs:
    """First and second moment of what layers read, over all images and positions, in float64.

    Attributes:
        mean: (in,).
        covariance: (in, in), about the mean; singular where inputs are dead or fewer than dimensions.
    """

    mean: Tensor
    covariance: Tensor


@dataclass(frozen=True, eq=False)
class Moments:
    """What flows through one layer.

    Attributes:
        inputs: of what it reads; layers that read the same rows (query, key and value) share one object.
        gradients: (out, out), float64, the mean over images of Σ g gᵀ over positions, where g is the gradient of
            the loss by the layer's output.
        positions: how many input rows the layer sees for each image (tokens, or pixels of its output).
    """

    inputs: Inputs
    gradients: Tensor
    positions: int


class _Sums:
    """Of rows, about the first of them: beside a large mean, rounding would hide which directions are empty.

    A batch is multiplied in the dtype of its rows, and batches are added in float64. Rows that are fewer than
    their dimensions are multiplied in it, too: they leave directions empty, which float32 would fill by rounding.
    """

    def __init__(self, rows: Tensor) -> None:
        size = rows.shape[1]
        self.origin, self.count = rows[0].clone(), 0
        self.total = rows.new_zeros(size, dtype=torch.float64)
        self.squares = rows.new_zeros(size, size, dtype=torch.float64)

    def add(self, rows: Tensor) -> None:
        self.count += len(rows)
        few = self.count <= len(self.total)
        centred = rows.double() - self.origin.double() if few else rows - self.origin
        self.total += centred.sum(0)
        self.squares += centred.T @ centred

    def moments(self) -> Inputs:
        """Return them; the sums are used up."""
        shift = self.total / self.count
        covariance = _symmetric(self.squares.div_(self.count)).sub_(torch.outer(shift, shift))
        return Inputs((self.origin + shift).cpu(), covariance.cpu())


def moments(model: Model, images: Tensor, seed: int) -> dict[str, Moments]:
    """Return what `moments_of` does, for the factorisable layers of one of our models.

    Args:
        model: on the device of `images`; it runs in evaluation mode.
        images: uint8 (N, C, H, W).
        seed: of the draws.
    """
    batches = in_batches(images, model.spec, BATCH, KEPT * len(model.blocks))
    return moments_of(factorisable(model), model.eval(), batches, seed)


def moments_of(
    layers: Mapping[str, nn.Module],
    run: Callable[[Any], Tensor],
    batches: Iterable[Any],
    seed: int,
) -> dict[str, Moments]:
    """Return layer -> what flows through it, on the CPU.

    The gradients are those of `fisher_draws`, so that the mean of their products is the Fisher information of the
    predictions (K-FAC, arXiv:1503.05671; for positions that share a weight, arXiv:1602.01407), which says how fast
    they move away.

    Args:
        layers: each of which runs once in a forward pass.
        run: gives the logits (B, classes) of a batch, with the gradient's graph.
        batches: what `run` takes.
        seed: of the draws.

    Raises UserError where a layer does not run once, or on no image; where the model overwrites what a layer reads
    or gives: that is then no longer to be seen; and where no gradient comes back to a layer: nothing would then be
    known of what it does to the logits.
    """
    inputs: dict[str, _Sums] = {}
    gradients: dict[str, Tensor] = {}
    shared: dict[str, str] = {}
    generator = torch.Generator().manual_seed(seed)
    count = 0
    for batch in batches:
        logits, seen, by_output = _flowing(layers, run, batch, generator)
        count += len(logits)
        shared = first_readers(layers, seen)
        for name in dict.fromkeys(shared.values()):
            rows = input_rows(layers[name], seen[name].detach())
            if len(rows):  # to an expert no image of a batch may go
                inputs.setdefault(name, _Sums(rows)).add(rows)
        for name, gradient in by_output.items():
            rows = output_rows(layers[name], gradient)
            products = rows.T @ rows
            gradients[name] = gradients[name].add_(products) if name in gradients else products.double()
    if unreached := [name for name, first in shared.items() if first not in inputs]:
        raise UserError(
            f"layer {unreached[0]}: none of the images comes to it; give more, or leave the layer alone"
        )
    finished = {name: sums.moments() for name, sums in inputs.items()}
    # A row that a batch shares, or that not every image has, counts as one of each image.
    positions = {name: max(1, sums.count // count) for name, sums in inputs.items()}
    return {
        name: Moments(finished[first], _symmetric(gradients[name].div_(count)).cpu(), positions[first])
        for name, first in shared.items()
    }


def _flowing(
    layers: Mapping[str, nn.Module], run: Callable[[Any], Tensor], batch: Any, generator: torch.Generator
) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Return a batch's logits, layer -> what it reads, and layer -> the gradient of what it gives."""
    with watched(layers) as seen:
        logits = run(batch)
        seen.check_once(layers)
        loss = (logits * fisher_draws(logits.detach(), generator)).sum()
        seen.check_not_overwritten()
        by_output = _gradients(loss, {name: seen[name][1] for name in layers})
        read = {name: seen[name][0] for name in layers}
    return logits.detach(), read, by_output


def _gradients(loss: Tensor, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return layer -> the gradient of the loss by its output; raise UserError if there is none."""
    cut_off = [name for name, output in outputs.items() if not output.requires_grad]
    found = () if cut_off else torch.autograd.grad(loss, tuple(outputs.values()), allow_unused=True)
    cut_off += [name for name, gradient in zip(outputs, found, strict=False) if gradient is None]
    if cut_off:
        raise UserError(
            f"layer {cut_off[0]}: no gradient comes back to it from the logits, as if what it gives were detached "
            "or unused; leave the layer alone, and those that only it follows"
        )
    return dict(zip(outputs, found, strict=True))


def fisher_draws(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Return a vector v for each image with E[v vᵀ] = diag(p) - p pᵀ, the Fisher information of its logits.

    p are the probabilities of logits (B, classes), and v = √p ε - p (√p · ε) with random signs ε. The gradient of
    a label drawn from p has the same second moment, but where a class is all but certain it is nearly always
    nearly zero: few draws say little.
    """
    roots = sqrt(logits.float().softmax(1)).cpu()
    signed = roots * (2 * torch.randint(2, roots.shape, generator=generator) - 1)
    draws = signed - roots.square() * signed.sum(1, keepdim=True)
    return draws.to(logits)


def save_moments(flows: Mapping[str, Moments], path: Path) -> None:
    """Write one sealed file: shared inputs once, and of each symmetric matrix the lower triangle."""
    first = {id(flow.inputs): name for name, flow in reversed(list(flows.items()))}
    content = {name: {"reads": first[id(flow.inputs)], "rows": flow.positions} for name, flow in flows.items()}
    tensors = {f"{name}.gradients": _packed(flow.gradients) for name, flow in flows.items()}
    for name in first.values():
        tensors[f"{name}.mean"] = flows[name].inputs.mean
        tensors[f"{name}.covariance"] = _packed(flows[name].inputs.covariance)
    write_sealed(path, "moments", content, tensors)


def load_moments(path: Path) -> dict[str, Moments]:
    """Read what `save_moments` wrote, in its order; raise UserError if the file is missing, altered or another."""
    content, tensors = read_sealed(path, "moments")
    inputs = {
        name: Inputs(tensors[f"{name}.mean"], _unpacked(tensors[f"{name}.covariance"]))
        for name in {entry["reads"] for entry in content.values()}
    }
    return {
        name: Moments(inputs[entry["reads"]], _unpacked(tensors[f"{name}.gradients"]), entry["rows"])
        for name, entry in content.items()
    }


def _symmetric(squares: Tensor) -> Tensor:
    """Return a sum of products of rows without what rounding made of its two triangles."""
    return (squares + squares.T) / 2


def _packed(symmetric: Tensor) -> Tensor:
    rows, columns = torch.tril_indices(*symmetric.shape)
    return symmetric[rows, columns]


def _unpacked(triangle: Tensor) -> Tensor:
    size = int((2 * len(triangle)) ** 0.5)
    rows, columns = torch.tril_indices(size, size)
    symmetric = torch.empty(size, size, dtype=triangle.dtype)
    symmetric[rows, columns] = triangle
    symmetric[columns, rows] = triangle
    return symmetric
