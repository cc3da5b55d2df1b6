"""One call that makes any PyTorch model smaller: its linear layers and convolutions become low-rank factors.

small, report = compress(model, images, keep=0.5)
report.save("small.safetensors")
same = restore(fresh_model, "small.safetensors")
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from vtp.calibration.moments import moments_of
from vtp.checked import checked
from vtp.compressible import Run, compressible
from vtp.decompositions import METHODS
from vtp.errors import UserError
from vtp.lowrank.factorise import factorise_units
from vtp.lowrank.report import UnitReport
from vtp.lowrank.units import units
from vtp.measure import divergence
from vtp.models.layers import check_shapes, replace_by_factors
from vtp.models.spec import Factor
from vtp.params import DecomposeParams
from vtp.report import markdown_table
from vtp.sealed import read_sealed, write_sealed

M = TypeVar("M", bound=nn.Module)
KIND = "compressed"


@dataclass(frozen=True, eq=False)
class Report:
    """What `compress` did.

    Attributes:
        model: the compressed model.
        units: what became of each layer that was looked at.
        left_alone: layer -> why it was not looked at.
        factors: layer -> the pair that stands in its place.
        parameters, parameters_dense: weights of the whole model, now and before.
        predicted: mean KL divergence (nats) from the dense model's predictions that the metric `loss` expects;
            None for the other metrics, whose errors are in another unit.
        measured: the same as it was found on the images given.
        agreement: the fraction of these images on which both models name the same class.
    """

    model: nn.Module
    units: tuple[UnitReport, ...]
    left_alone: dict[str, str]
    factors: dict[str, Factor]
    parameters: int
    parameters_dense: int
    predicted: float | None
    measured: float
    agreement: float

    def save(self, path: Path | str) -> None:
        """Write the compressed model to one file, whole or not at all, without pickle; `restore` reads it."""
        content = {"factors": {name: asdict(factor) for name, factor in self.factors.items()}}
        write_sealed(Path(path), KIND, content, _distinct(self.model))

    def __str__(self) -> str:
        """A table of the layers, and the totals."""
        rows = [
            (
                unit.unit,
                "×".join(map(str, unit.shape)),
                str(unit.rank or "dense"),
                f"{unit.parameters:,}",
                f"{unit.macs:,}",
                f"{unit.output_error:.4f}",
            )
            for unit in self.units
        ]
        expected = "" if self.predicted is None else f", predicted {self.predicted:.4f}"
        return markdown_table(("layer", "shape", "rank", "parameters", "MACs", "output error"), rows) + (
            f"\n{self.parameters:,} of {self.parameters_dense:,} parameters "
            f"({self.parameters / self.parameters_dense:.0%}); KL divergence from the dense model "
            f"{self.measured:.4f} nats{expected}; the same class on {self.agreement:.1%} of the images\n"
        )


def compress(
    model: M,
    images: Tensor | Iterable[Any],
    *,
    keep: float = 0.5,
    method: str = "svd",
    metric: str = "loss",
    budget: str = "parameters",
    allocation: str = "global",
    layers: Sequence[str] = ("*",),
    skip: Sequence[str] = (),
    forward: Callable[[M, Any], Any] | None = None,
    batch_size: int = 4,
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
        layers, skip: patterns of layers' names to look at and to leave alone, with `*` for any text. Heads, the
            layers that give the logits, are left alone.
        forward: called with the model and a batch, for models that want more than images.
        batch_size: images that run at once; memory grows with it.
        seed: of the random signs in the draws of the gradients.

    Raises UserError, one sentence, for a value that is not allowed, and a model or images that cannot be used.
    """
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
    small = copy.deepcopy(model)
    run = Run(small, forward)
    batches = run.batches(images, batch_size)
    with _calibrating(small):
        chosen, left_alone = compressible(small, run, batches, layers, skip)
        logits: list[Tensor] = []

        def run_and_keep(batch: Any) -> Tensor:
            logits.append((found := run(batch)).detach())
            if not found.requires_grad:
                raise UserError("compress: the model's logits have no gradient; do not detach them")
            return found

        bar = tqdm(batches, "calibrating", unit=" batches", disable=None)
        flows = moments_of(chosen, run_and_keep, bar, seed, next(small.parameters()).dtype)
        state = dict(small.state_dict())
        before = set(state)
        try:
            factors, reports = factorise_units(units(chosen, flows, plan), state, method, plan)
        except UserError as error:
            raise UserError(f"compress: {error}") from error
        _put_factors(small, factors)
        _copy_into(small, {name: tensor for name, tensor in state.items() if name not in before})
        with torch.no_grad():
            found = torch.cat([run(batch) for batch in batches])
    measured, agreement = divergence(torch.cat(logits), found)
    return small, Report(
        model=small,
        units=tuple(reports),
        left_alone=left_alone,
        factors=factors,
        parameters=sum(parameter.numel() for parameter in small.parameters()),
        parameters_dense=sum(parameter.numel() for parameter in model.parameters()),
        predicted=sum(unit.predicted_loss or 0.0 for unit in reports) if plan.metric == "loss" else None,
        measured=measured,
        agreement=agreement,
    )


def restore(model: M, path: Path | str) -> M:
    """Return a copy of `model`, fresh from its own constructor, with the factors and weights that `save` wrote.

    Raises UserError, one sentence, if the file is missing, altered or another, or was made from another model.
    """
    content, tensors = read_sealed(Path(path), KIND)
    restored = copy.deepcopy(model)
    factors = {name: checked(Factor, plain, str(path), name) for name, plain in content["factors"].items()}
    modules = dict(restored.named_modules())
    for name in factors:
        if not isinstance(modules.get(name), nn.Linear | nn.Conv2d):
            raise UserError(f"{path}: made from another model: {type(model).__name__} has no layer {name}")
    _put_factors(restored, factors)
    try:
        check_shapes(_distinct(restored), tensors)
    except UserError as error:
        raise UserError(f"{path}: made from another model: {error}") from error
    _copy_into(restored, tensors)
    return restored


def _put_factors(model: nn.Module, factors: dict[str, Factor]) -> None:
    """Put pairs of factors, not yet filled, where the layers are, in their mode, dtype and device."""
    dense = {name: model.get_submodule(name) for name in factors}
    replace_by_factors(model, factors)
    for name, layer in dense.items():
        weight = next(layer.parameters())
        model.get_submodule(name).to(weight.device, weight.dtype).train(layer.training)


def _distinct(model: nn.Module) -> dict[str, Tensor]:
    """Return a model's tensors, not copies, by name; those of several names by the first."""
    first = {id(tensor): (name, tensor) for name, tensor in reversed(model.state_dict(keep_vars=True).items())}
    return dict(reversed(first.values()))


@torch.no_grad()
def _copy_into(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Overwrite a model's tensors, so that those that layers share stay shared."""
    state = _distinct(model)
    for name, tensor in tensors.items():
        state[name].copy_(tensor)


@contextmanager
def _calibrating(model: nn.Module) -> Iterator[None]:
    """Put every module in evaluation mode, with gradients and without changes in place; then as it was.

    An activation that overwrites what a layer gave would hide it.
    """
    modes = {module: module.training for module in model.modules()}
    in_place = [module for module in model.modules() if getattr(module, "inplace", False) is True]
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    model.eval().requires_grad_(True)
    for module in in_place:
        module.inplace = False  # type: ignore[assignment]
    try:
        with torch.enable_grad():
            yield
    finally:
        for module in model.modules():
            module.training = modes.get(module, modes[model])  # of factors, which are new, the model's
        for module in in_place:
            module.inplace = True  # type: ignore[assignment]
        for parameter in frozen:
            parameter.requires_grad_(False)
