"""Measuring what the layers of a model cost in time, dense and as factors.

Layers are timed inside the whole model in its inference form, where they find the caches as they do in use: once
dense, then all as factors, of several ranks. The fastest run counts, as whatever else the machine does only adds;
layers of one kind and shape count as one. What the model takes beside its layers is the same whatever their ranks.
"""

import re
import statistics
import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vtp.inference import for_inference, parts_of
from vtp.latency import latency
from vtp.models import Model, build, factorisable, from_state
from vtp.models.spec import Factor
from vtp.times import STEP, LayerTimes, Times

POINTS = 8  # ranks that are measured
RUNS, SECONDS = 20, 1.0  # of each model at most, of which there are three at least


def milliseconds(model: Model, batch: int) -> float:
    """Return what `batch` images take by the inference form of `model`: the fastest run."""
    return 1000 * latency(for_inference(model), batch, RUNS, SECONDS).low


def measured(model: Model, batch: int, dense: float) -> Times:
    """Time a model without factors for `batch` images, on its device and with PyTorch's number of threads.

    `dense` is the `milliseconds` of the model before dims were removed.
    """
    layers = factorisable(model)
    shapes = {name: tuple(layer.weight.flatten(1).shape) for name, layer in layers.items()}
    total, each = _timed(for_inference(model), batch, shapes)
    found: dict[str, dict[int, float]] = {name: {} for name in layers}
    for point in range(1, POINTS + 1):
        ranks = {name: rank for name, (rows, columns) in shapes.items() if (rank := _rank(rows, columns, point))}
        factors = {name: Factor(rank, layers[name].bias is not None) for name, rank in ranks.items()}
        if factors:
            _, times = _timed(for_inference(_zeros(model, factors)), batch, shapes)
            for name, rank in ranks.items():
                found[name][rank] = times[name]
    return Times(batch, total, {name: _layer_times(each[name], found[name]) for name in layers}, dense)


def _rank(rows: int, columns: int, point: int) -> int:
    """Return the multiple of STEP at `point` of POINTS on the way to where factors save nothing; 0: none."""
    most = (rows * columns - 1) // (rows + columns) // STEP
    return STEP * max(min(1, most), round(most * point / POINTS))


def _layer_times(dense: float, factors: Mapping[int, float]) -> LayerTimes:
    ranks = tuple(sorted(factors))
    rising = np.maximum.accumulate([factors[rank] for rank in ranks]).tolist() if ranks else []
    return LayerTimes(dense, ranks, tuple(rising))


def _zeros(model: Model, factors: dict[str, Factor]) -> Model:
    """Return the model with these factors; times do not depend on the weights, which are zeros."""
    spec = replace(model.spec, factors=factors)
    state = {
        name: torch.zeros(like.shape, dtype=like.dtype, device=model.mean.device)
        for name, like in build(spec).state_dict().items()
    }
    return from_state(spec, state)


def _timed(model: Model, batch: int, shapes: Mapping[str, tuple[int, ...]]) -> tuple[float, dict[str, float]]:
    """Return the milliseconds of a whole inference form, and of each layer; of those alike the mean."""
    whole = latency(model, batch, RUNS, SECONDS).low
    parts = parts_of(model, shapes)
    with _watched({module for shared in parts.values() for module, _ in shared}, model.mean.device) as seen:
        latency(model, batch, RUNS, SECONDS)
    alike: dict[Any, list[float]] = defaultdict(list)
    keys = {}
    for name, shared in parts.items():
        keys[name] = (re.sub(r"\d+", "", name), *shapes[name], *(seen[module].rows for module, _ in shared))
        alike[keys[name]].append(sum(share * min(seen[module].seconds) for module, share in shared))
    return 1000 * whole, {name: 1000 * statistics.mean(alike[key]) for name, key in keys.items()}


@dataclass
class _Seen:
    """How many rows a module reads, and how long its runs take."""

    rows: int = 0
    start: float = 0.0
    seconds: list[float] = field(default_factory=list)


@contextmanager
def _watched(modules: Collection[nn.Module], device: torch.device) -> Iterator[dict[nn.Module, _Seen]]:
    """Note how long each of the modules runs."""
    seen = {module: _Seen() for module in modules}

    def before(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen[module].rows = len(inputs[0])
        seen[module].start = _now(device)

    def after(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen[module].seconds.append(_now(device) - seen[module].start)

    hooks = [module.register_forward_pre_hook(before) for module in modules]
    hooks += [module.register_forward_hook(after) for module in modules]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
