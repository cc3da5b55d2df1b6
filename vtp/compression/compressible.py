"""Which layers of a model can be made smaller, and how it runs on what it is given; the words where it cannot."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from vtp.errors import UserError
from vtp.models import Model, factorisable

HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
LARGEST = 30.0  # of a normalised pixel: what is larger was not normalised


class Run:
    """Runs a model on a batch and gives its logits.

    Args:
        model: in one floating dtype, on one device.
        forward: called with the model and a batch instead of the model.

    Raises UserError if the model's weights cannot be used.
    """

    def __init__(self, model: nn.Module, forward: Callable[[Any, Any], Any] | None) -> None:
        self.model, self.forward = model, forward
        dtypes = {weight.dtype for weight in model.parameters()}
        self.devices = {weight.device for weight in model.parameters()}
        if not dtypes <= {torch.float32, torch.float64} or len(dtypes) != 1:
            found = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes)) or "no weights"
            raise UserError(f"compress: the model has {found}, but must be in float32 or float64: model.float()")
        if len(self.devices) > 1 or "meta" in {device.type for device in self.devices}:
            found = ", ".join(sorted(map(str, self.devices)))
            raise UserError(
                f"compress: the model's weights are on {found}, but must be on one device, with values"
            )

    def batches(self, images: Tensor | Iterable[Any], batch_size: int) -> list[Any]:
        """Return the images in batches; raise UserError if there are none, or their values are not normalised."""
        batches = list(images.split(batch_size) if isinstance(images, Tensor) else images)
        if not batches or any(isinstance(batch, Tensor) and not len(batch) for batch in batches):
            raise UserError("compress: there are no images; a few hundred are enough")
        first = batches[0]
        if self.forward is None and not isinstance(first, Tensor):
            raise UserError(
                f"compress: a batch is a {type(first).__name__}, but must be a tensor, unless forward= takes it"
            )
        if self.forward is None and not hasattr(self.model, "normalised"):
            if not first.is_floating_point():
                raise UserError(f"compress: the images are {first.dtype}, but must be floating and normalised")
            if float(first.abs().max()) > LARGEST:
                raise UserError(
                    f"compress: the images have values up to {float(first.abs().max()):g}, but must be normalised "
                    "as the model was trained, unless forward= does it"
                )
        return batches

    def __call__(self, batch: Any) -> Tensor:
        """Return the logits (B, classes) of a batch, of a single logit those of two classes, 0 and itself.

        Raises UserError if the model does not give any.
        """
        logits = self.given(batch)
        return logits if logits.shape[1] > 1 else torch.cat([torch.zeros_like(logits), logits], 1)

    def given(self, batch: Any) -> Tensor:
        """Return the logits as the model gives them, (B, classes); raise UserError if it gives none."""
        if isinstance(batch, Tensor):
            batch = batch.to(next(iter(self.devices)))
        try:
            found = self.model(batch) if self.forward is None else self.forward(self.model, batch)
        except (RuntimeError, ValueError, TypeError, AssertionError, LookupError, AttributeError) as error:
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise UserError(f"compress: the model cannot run on the images: {reason[0]}") from error
        logits = getattr(found, "logits", found)
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            what = tuple(logits.shape) if isinstance(logits, Tensor) else type(found).__name__
            raise UserError(f"compress: the model gives {what}, but must give logits (B, classes); see forward=")
        if not logits.isfinite().all():
            raise UserError("compress: the model's logits are not finite on the images")
        return logits


def compressible(
    model: nn.Module, run: Run, batches: Sequence[Any], layers: Sequence[str], skip: Sequence[str]
) -> tuple[dict[str, nn.Linear | nn.Conv2d], dict[str, str]]:
    """Return name -> layer for those that can be factorised, and name -> reason for those left alone.

    Raises UserError if a pattern matches no layer, if a layer that was asked for never runs, runs more than once,
    or shares its weight, and if none is left.
    """
    found = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)}
    own = factorisable(model) if isinstance(model, Model) else found
    _check_matched("layers", layers, found)
    _check_matched("skip", skip, found)
    wanted = {
        name: module for name, module in found.items() if _matches(name, layers) and not _matches(name, skip)
    }
    left_alone = {name: reason for name, module in wanted.items() if (reason := _cannot(model, name, module))}
    left_alone |= dict.fromkeys(wanted.keys() - own.keys(), "a checkpoint of this project has no factors there")
    left = {name: module for name, module in wanted.items() if name not in left_alone}
    _check_not_shared(model, left)
    calls, heads = _observed(left, run, batches[0])
    left_alone |= dict.fromkeys(heads, "it gives the logits")
    for name in list(left):
        if calls[name] != 1:
            how = "never runs" if calls[name] == 0 else f"runs {calls[name]} times"
            raise UserError(f"compress: layer {name} {how} in a forward pass; leave it alone with skip={[name]!r}")
    chosen = {name: module for name, module in left.items() if name not in heads}
    if not chosen:
        why = "".join(f"; {name}: {reason}" for name, reason in [*left_alone.items()][:1])
        raise UserError(
            f"compress: no layer is left to factorise among layers={list(layers)!r}, skip={list(skip)!r}{why}"
        )
    return chosen, left_alone


def _check_matched(argument: str, patterns: Sequence[str], names: Iterable[str]) -> None:
    for pattern in patterns:
        if not any(_matches(name, [pattern]) for name in names):
            named = ", ".join([*names][:3]) or "none"
            raise UserError(
                f"compress: {argument} has {pattern!r}, but must match linear layers or convolutions; the model's "
                f"first: {named}"
            )


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _cannot(model: nn.Module, name: str, layer: nn.Linear | nn.Conv2d) -> str:
    """Say why a layer cannot be factorised; empty where it can."""
    parents = [name.rsplit(".", index)[0] for index in range(1, name.count(".") + 1)]
    if any(isinstance(model.get_submodule(parent), nn.MultiheadAttention) for parent in parents):
        return "nn.MultiheadAttention uses its weight without calling it"
    if isinstance(layer, nn.Conv2d) and (layer.groups > 1 or layer.padding_mode != "zeros"):
        return "a grouped convolution" if layer.groups > 1 else f"a convolution with {layer.padding_mode} padding"
    if isinstance(layer, nn.Conv2d) and isinstance(layer.padding, str):
        return "a convolution whose padding is a word"
    own = dict(layer.named_parameters(recurse=False))
    for part in ("weight", "bias"):
        if getattr(layer, part) is not None and part not in own:
            return f"its {part} is computed from other tensors"
    if any(getattr(layer, hooks) for hooks in HOOKS):
        return "it has hooks, which factors would not have"
    plain = nn.Conv2d if isinstance(layer, nn.Conv2d) else nn.Linear
    if type(layer).forward is plain.forward and "forward" not in vars(layer):
        return ""
    return f"{type(layer).__name__} computes something else"


def _check_not_shared(model: nn.Module, layers: dict[str, nn.Linear | nn.Conv2d]) -> None:
    owners: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), []).append(name)
    for name, layer in layers.items():
        others = [owner for owner in owners[id(layer.weight)] if owner != f"{name}.weight".lstrip(".")]
        if others:
            raise UserError(
                f"compress: layer {name} shares its weight with {others[0]}; leave it alone with skip={[name]!r}"
            )


def check_gone(replaced: Mapping[str, nn.Module], run: Run, batch: Any) -> None:
    """Raise UserError if a model still runs a layer that another has taken the place of."""
    calls, _ = _observed(replaced, run, batch)
    for name in replaced:
        if calls[name]:
            raise UserError(
                f"compress: layer {name} is held elsewhere, too, as in a list, where nothing can take its place; "
                f"hold it in an nn.ModuleList, or leave it alone with skip={[name]!r}"
            )


def _observed(layers: Mapping[str, nn.Module], run: Run, batch: Any) -> tuple[Counter[str], list[str]]:
    """Return how often each layer runs in a forward pass, and those that give the logits.

    Where none gives these very numbers, as of two heads whose mean is taken: those that give something as large.
    """
    calls: Counter[str] = Counter()
    outputs: dict[str, Tensor] = {}

    def note(name: str, output: Tensor) -> None:
        calls[name] += 1
        outputs[name] = output

    hooks = [
        layer.register_forward_hook(lambda layer, inputs, output, name=name: note(name, output))
        for name, layer in layers.items()
    ]
    try:
        logits = run.given(batch)  # with gradients: without, some modules of PyTorch go past their layers
    finally:
        for hook in hooks:
            hook.remove()
    place = logits.untyped_storage().data_ptr()
    same = [name for name, output in outputs.items() if output.untyped_storage().data_ptr() == place]
    return calls, same or [name for name, output in outputs.items() if output.shape == logits.shape]
