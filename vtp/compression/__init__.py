"""One call that makes any PyTorch model smaller: its linear layers and convolutions become low-rank factors.

small, report = compress(model, images, keep=0.5)
report.save("small.safetensors")
same = restore(fresh_model, "small.safetensors")
"""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from vtp.calibration.moments import Moments, moments_of
from vtp.checked import checked
from vtp.compression.compressible import Run, check_gone, compressible
from vtp.compression.modules import calibrating, copy_into, distinct, factors_of, put_factors
from vtp.compression.recovery import nearness, recovered
from vtp.compression.report import KIND, Report
from vtp.decompositions import METHODS
from vtp.errors import UserError
from vtp.lowrank.factorise import factorise_units
from vtp.lowrank.units import units
from vtp.models import Model
from vtp.models.layers import check_shapes
from vtp.models.spec import Factor
from vtp.params import DecomposeParams
from vtp.sealed import read_sealed

__all__ = ["Report", "compress", "restore"]

M = TypeVar("M", bound=nn.Module)
BUDGETS = ("parameters", "macs")  # of those that the pipeline has: of a model of any class no layer is timed


def compress(
    model: M,
    images: Tensor | Iterable[Any],
    *,
    keep: float = 0.5,
    method: str = "svd",
    metric: str = "loss",
    budget: str = "parameters",
    allocation: str = "global",
    layers: str | Sequence[str] = "*",
    skip: str | Sequence[str] | None = None,
    forward: Callable[[M, Any], Any] | None = None,
    batch_size: int = 4,
    recover: int = 0,
    recover_on: Tensor | Iterable[Any] | None = None,
    seed: int = 0,
) -> tuple[M, Report]:
    """Return a smaller copy of `model`, of the same class, and a report of it; the model given stays as it is.

    Args:
        model: any module whose forward pass gives logits (B, classes), or has them as its attribute `logits`.
        images: a tensor (N, …) as the model wants it, normalised, or batches of whatever `forward` takes; a few
            hundred images without labels, on which it is found out what each layer reads and does to the logits.
        keep: the fraction of the layers' cost that their factors may use.
        method: a name in `vtp.decompositions.METHODS`.
        metric: `loss`, `activation` or `weight`: what an error counts (docs/methods.md).
        budget: `parameters` or `macs`: what `keep` counts.
        allocation: `global`: ranks where they remove most error; `uniform`: each layer alike.
        layers, skip: a pattern or patterns of layers' names to look at and to leave alone, with `*` for any text.
            Heads, the layers that give the logits, are left alone.
        forward: called with the model and a batch, for models that want more than images.
        batch_size: images that run at once; memory grows with it.
        recover: steps of 64 images in which all weights of the smaller model learn the predictions of `model`, on
            blends of images; 0: none. Where that brings it no nearer on `images`, it is left out.
        recover_on: more images for these steps, such as all that there are, as `images`; None: `images`.
        seed: of the random signs in the draws of the gradients, and of the images of these steps.

    Raises UserError, one sentence, for a value that is not allowed, and a model or images that cannot be used.
    """
    if budget not in BUDGETS:
        raise UserError(f"compress: budget is {budget!r}, but must be one of {', '.join(BUDGETS)}")
    plan: DecomposeParams = checked(
        DecomposeParams,
        {
            "keep": keep,
            "budget": budget,
            "allocation": allocation,
            "metric": metric,
            "form": "auto",
            "correction": "none",
        },
        "compress",
    )
    if method not in METHODS:
        raise UserError(f"compress: method is {method!r}, but must be one of {', '.join(METHODS)}")
    if not isinstance(recover, int) or recover < 0:
        raise UserError(f"compress: recover is {recover!r}, but must be a whole number of steps, 0 or more")
    if not isinstance(batch_size, int) or batch_size < 1:
        raise UserError(f"compress: batch_size is {batch_size!r}, but must be a whole number of images, 1 or more")
    small = _copied(model, "compress")
    run = Run(small, forward)
    batches = run.batches(images, batch_size)
    seen = batches if recover_on is None else run.batches(recover_on, batch_size)
    with calibrating(small):
        chosen, left_alone = compressible(small, run, batches, _patterns(layers), _patterns(skip))
        flows, dense = _calibrated(small, run, batches, chosen, seed)
        state = dict(small.state_dict())
        before = set(state)
        try:
            factors, reports = factorise_units(units(chosen, flows, plan), state, method, plan)
        except UserError as error:
            raise UserError(f"compress: {error}") from error
        replaced = {name: small.get_submodule(name) for name in factors}
        put_factors(small, factors)
        copy_into(small, {name: tensor for name, tensor in state.items() if name not in before})
        if isinstance(small, Model):
            small.spec = replace(small.spec, factors=factors_of(small))
        check_gone(replaced, run, batches[0])
        if recover:
            teacher = Run(copy.deepcopy(model).eval(), forward)
            (unrecovered, _), near = recovered(small, run, teacher, seen, batches, dense, recover, seed)
        else:
            unrecovered, near = None, nearness(run, batches, dense)
    return small, Report(
        model=small,
        units=tuple(reports),
        left_alone=left_alone,
        factors=factors_of(small),
        parameters=sum(parameter.numel() for parameter in small.parameters()),
        parameters_dense=sum(parameter.numel() for parameter in model.parameters()),
        predicted=sum(unit.predicted_loss or 0.0 for unit in reports) if plan.metric == "loss" else None,
        unrecovered=unrecovered,
        measured=near[0],
        agreement=near[1],
    )


def _copied(model: M, what: str) -> M:
    """Return a copy of a model; raise UserError if there can be none, or none whose layers are to be seen.

    `what` is the call or the file that the sentence begins with.
    """
    if not isinstance(model, nn.Module):
        raise UserError(f"{what}: the model is a {type(model).__name__}, but must be an nn.Module")
    for name, module in model.named_modules():
        if hasattr(module, "_orig_mod"):
            part = f"{name} of the model" if name else "the model"
            raise UserError(
                f"{what}: {part} is compiled, but must be what torch.compile was given: its attribute _orig_mod"
            )
    try:
        return copy.deepcopy(model)
    except (RuntimeError, TypeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"{what}: the model cannot be copied: {reason}; if it keeps what it computed, run it on an image "
            "under torch.no_grad() first"
        ) from error


def _patterns(given: str | Sequence[str] | None) -> Sequence[str]:
    return [given] if isinstance(given, str) else given or ()


def _calibrated(
    model: nn.Module, run: Run, batches: Sequence[Any], layers: Mapping[str, nn.Module], seed: int
) -> tuple[dict[str, Moments], Tensor]:
    """Return what flows through the layers of a model, and its logits (N, classes)."""
    logits: list[Tensor] = []

    def run_and_keep(batch: Any) -> Tensor:
        logits.append((found := run(batch)).detach())
        if not found.requires_grad:
            raise UserError("compress: the model's logits have no gradient; do not detach them")
        return found

    bar = tqdm(batches, "calibrating", unit=" batches", disable=None)
    try:
        flows = moments_of(layers, run_and_keep, bar, seed)
    except UserError as error:
        raise UserError(f"compress: {str(error).removeprefix('compress: ')}") from error
    return flows, torch.cat(logits)


def restore(model: M, path: Path | str) -> M:
    """Return a copy of `model`, fresh from its own constructor, with the factors and weights that `save` wrote.

    Raises UserError, one sentence, if the file is missing, altered or another, or was made from another model, and
    if the model given cannot be copied or has no values.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file")
    content, tensors = read_sealed(Path(path), KIND)
    restored = _copied(model, str(path))
    if any(tensor.is_meta for tensor in distinct(restored).values()):
        raise UserError(f"{path}: the model given is on meta, but must be on a device where it has values")
    factors = {name: checked(Factor, plain, str(path), name) for name, plain in content["factors"].items()}
    made = factors_of(restored)  # by the model's own constructor
    for name, factor in factors.items():
        if made.get(name) == factor:
            continue
        layer = dict(restored.named_modules()).get(name)
        if not isinstance(layer, nn.Linear | nn.Conv2d):
            raise UserError(f"{path}: made from another model: {type(model).__name__} has no layer {name}")
        if factor.rank > min(layer.weight.flatten(1).shape):
            small = f"layer {name} is {tuple(layer.weight.shape)}, too small for rank {factor.rank}"
            raise UserError(f"{path}: made from another model: {small}")
        put_factors(restored, {name: factor})
    try:
        check_shapes(distinct(restored), tensors)
    except UserError as error:
        raise UserError(f"{path}: made from another model: {error}") from error
    copy_into(restored, tensors)
    return restored
