"""Refit layers of a compressed model, in closed form and without training.

A layer that reads something else than it did before is fitted anew, by least squares on calibration images, so
that from what it reads now it makes what was made of what was read before. No labels are used.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import cast

import torch
from torch import Tensor

from vtp.calibration.regression import Sums, summed, weight_and_bias
from vtp.calibration.watching import BATCH, Reached, first_readers, left_after, watched
from vtp.models import Model, from_state, in_batches
from vtp.numerics import sqrt

WIDEST = 2.0
"""How far a channel's deviation may be from what it was before, as a factor, and be brought back there."""


@torch.no_grad()
def refitted(
    model: Model,
    reference: Model,
    images: Tensor,
    layers: Mapping[str, Model],
    change: Callable[[Model, str, Sums], None],
) -> Model:
    """Return `model` with some of its layers fitted anew to what the layers of that name give elsewhere.

    Block after block and layer after layer: what is fitted in one is what the next ones get to see.

    Args:
        model: the compressed model.
        reference: the model that it is to come near to, on the same device.
        images: uint8 (N, C, H, W), on that device.
        layers: name of a layer -> the model whose layer of that name says what it is to give. That is asked for
            with each block reading what the same block of `reference` reads.
        change: gives a layer of the new model, by its name, another weight and bias; of what it reads there and
            what it is to give it gets the sums.
    """
    result = from_state(model.spec, model.state_dict()).eval()
    batches = in_batches(images, reference.spec, BATCH)
    theirs, ours = ([each.embed(batch) for batch in batches] for each in (reference, result))
    for index in range(len(result.blocks)):
        fitted = {name: source for name, source in layers.items() if name.startswith(f"blocks.{index}.")}
        theirs, wanted = _aims(reference, index, theirs, fitted)
        for names in _readers(result, index, ours[0], fitted):
            sums = _sums(result, index, ours, {name: wanted.pop(name) for name in names})
            for name in names:
                change(result, name, sums[name])
                _settle(result, layers[name], name, sums[name])
        ours = [result.run_block(index, x) for x in ours]
    return result


def _settle(model: Model, source: Model, name: str, sums: Sums) -> None:
    """Let the batch norm after layer `name`, if there is one, give the mean and variance that it has in `source`.

    What is fitted by least squares varies less than what it is fitted to. A layer norm makes up for that by
    itself, a batch norm has the statistics of before. They are changed by as much as the layer's output has
    changed (REPAIR, arXiv:2211.08403), not taken anew: on images without augmentation they are other ones.
    """
    norm, theirs = model.norm_of(name), source.norm_of(name)
    if norm is None or theirs is None:
        return
    weight, bias = weight_and_bias(model.get_submodule(name))
    inputs = sums.inputs(about_mean=True)
    mean, wanted = weight @ inputs.mean + bias, sums.y / sums.rows
    variance = ((weight @ inputs.covariance) * weight).sum(1)
    wanted_variance = (sums.yy / sums.rows - wanted.square()).clamp_min(0)
    scale = sqrt(wanted_variance / variance).nan_to_num(1.0).clamp(1 / WIDEST, WIDEST)
    their_mean, their_variance = (theirs.get_buffer(f"running_{part}").double().cpu() for part in ("mean", "var"))
    norm.get_buffer("running_mean").copy_((their_mean - wanted) / scale + mean)
    norm.get_buffer("running_var").copy_(((their_variance + norm.eps) / scale.square() - norm.eps).clamp_min(0))


def _aims(
    reference: Model, index: int, batches: list[Tensor], fitted: Mapping[str, Model]
) -> tuple[list[Tensor], dict[str, list[Tensor]]]:
    """Return what block `index` of the reference makes of each batch, and what each layer is to give for it."""
    runs = {
        source: _run_and_watch(source, index, batches, {name for name, other in fitted.items() if other is source})
        for source in {*fitted.values(), reference}
    }
    outputs, _ = runs[reference]
    return outputs, {name: runs[source][1][name] for name, source in fitted.items()}


def _run_and_watch(
    model: Model, index: int, batches: list[Tensor], names: set[str]
) -> tuple[list[Tensor], dict[str, list[Tensor]]]:
    """Return what block `index` makes of each batch, and what each of the named layers gave."""
    outputs: list[Tensor] = []
    given: dict[str, list[Tensor]] = {name: [] for name in names}
    with watched({name: model.get_submodule(name) for name in given}) as seen:
        for x in batches:
            outputs.append(model.run_block(index, x))
            for name, values in given.items():
                values.append(seen[name][1])
    return outputs, given


def _readers(model: Model, index: int, x: Tensor, names: Iterable[str]) -> list[list[str]]:
    """Return the named layers of block `index`, in the order in which they run, those of one input together."""
    layers = {name: model.get_submodule(name) for name in names}
    with watched(layers) as seen:
        model.run_block(index, x)
    first = first_readers({name: layers[name] for name in seen}, {name: read for name, (read, _) in seen.items()})
    together: dict[tuple[str, bool], list[str]] = {}
    for name in first:
        together.setdefault((first[name], layers[name].bias is None), []).append(name)
    return list(together.values())


def _sums(model: Model, index: int, batches: list[Tensor], wanted: Mapping[str, list[Tensor]]) -> dict[str, Sums]:
    """Return layer -> the sums of what it reads, where block `index` reads `batches`, and of what it is to give.

    All of the layers read the same rows, and either each has a bias or none.
    """
    layers = [model.get_submodule(name) for name in wanted]
    total: Sums | None = None
    with watched(dict(zip(wanted, layers, strict=True))) as seen, left_after(layers[-1]):
        for x, *targets in zip(batches, *wanted.values(), strict=True):
            with suppress(Reached):
                model.run_block(index, x)
            read, _ = next(iter(seen.values()))
            total = summed(total, layers, read, targets)
    assert total is not None
    sizes = [len(cast(Tensor, layer.weight)) for layer in layers]
    return dict(zip(wanted, total.cpu().split(sizes), strict=True))
