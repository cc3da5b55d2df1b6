"""Measuring what the layers of a model cost in time, dense and as factors.

Layers are timed inside the whole model in its inference form, where they find the caches as they do in use: all
dense, and all as factors, of several ranks. The fastest run counts, as whatever else the machine does only adds;
layers of one kind and shape count as one. What the model takes beside its layers is the same whatever their ranks.
"""

import itertools
import math
import re
import statistics
import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from vtp.inference import for_inference, parts_of
from vtp.latency import latency
from vtp.models import Model, build, factorisable, from_state
from vtp.models.spec import Factor
from vtp.times import STEP, LayerTimes, Times

POINTS = 8  # ranks that are measured
TURNS = 5  # of each model, as a machine is not as fast in one second as in the next
RUNS, SECONDS = 4, 0.2  # of a model in its turn, at most


def milliseconds(model: Model, batch: int) -> float:
    """Return what `batch` images take by the inference form of `model`: the fastest run."""
    return 1000 * latency(for_inference(model), batch, TURNS * RUNS, TURNS * SECONDS).low


def measured(model: Model, batch: int, dense: Model) -> Times:
    """Time a model without factors for `batch` images, on its device and with PyTorch's number of threads.

    It takes turns with itself in factors, and with `dense`, the model before dims were removed.
    """
    shapes = {name: tuple(layer.weight.flatten(1).shape) for name, layer in factorisable(model).items()}
    points = [
        {name: _rank(rows, columns, point) for name, (rows, columns) in shapes.items()}
        for point in range(POINTS + 1)
    ]
    wholes = {"dense": for_inference(dense), "total": for_inference(model)}
    found: dict[Any, float] = defaultdict(lambda: math.inf)
    for _ in range(TURNS):
        for key, whole in wholes.items():
            found[key] = min(found[key], 1000 * latency(whole, batch, RUNS, SECONDS).low)
        for ranks in points:
            factors = for_inference(_in_factors(model, ranks))
            for name, took in _by_layer(factors, batch, shapes).items():
                found[name, ranks[name]] = min(found[name, ranks[name]], took)
    tried = {name: {ranks[name] for ranks in points} for name in shapes}
    layers = {name: _layer_times({rank: found[name, rank] for rank in ranks}) for name, ranks in tried.items()}
    return Times(batch, found["total"], layers, found["dense"])


def _rank(rows: int, columns: int, point: int) -> int:
    """Return the multiple of STEP at `point` of POINTS on the way to where factors save nothing; 0: dense."""
    most = (rows * columns - 1) // (rows + columns) // STEP
    return STEP * max(min(1, most, point), round(most * point / POINTS))


def _layer_times(milliseconds: Mapping[int, float]) -> LayerTimes:
    """Return what a layer costs, given the time at each rank, 0: dense."""
    ranks = sorted(milliseconds.keys() - {0})
    rising = itertools.accumulate((milliseconds[rank] for rank in ranks), max)
    return LayerTimes(milliseconds[0], tuple(ranks), tuple(rising))


def _in_factors(model: Model, ranks: Mapping[str, int]) -> Model:
    """Return the model with factors of these ranks, 0: none. Times do not depend on weights, which are zeros."""
    layers = factorisable(model)
    factors = {name: Factor(rank, layers[name].bias is not None) for name, rank in ranks.items() if rank}
    spec = replace(model.spec, factors=factors)
    state = {
        name: torch.zeros(like.shape, dtype=like.dtype, device=model.mean.device)
        for name, like in build(spec).state_dict().items()
    }
    return from_state(spec, state)


def _by_layer(model: Model, batch: int, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, float]:
    """Return the milliseconds of each layer in an inference form; of those alike the mean."""
    parts = parts_of(model, shapes)
    with _watched({module for shared in parts.values() for module, _ in shared}, model.mean.device) as seen:
        latency(model, batch, RUNS, SECONDS)
    alike: dict[Any, list[float]] = defaultdict(list)
    keys = {}
    for name, shared in parts.items():
        keys[name] = (re.sub(r"\d+", "", name), *shapes[name], *(seen[module].rows for module, _ in shared))
        alike[keys[name]].append(sum(share * min(seen[module].seconds) for module, share in shared))
    return {name: 1000 * statistics.mean(alike[key]) for name, key in keys.items()}


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
