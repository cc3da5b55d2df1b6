"""What a model costs on this machine: seconds and memory. No result depends on it."""

import statistics
import time
import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from vtp.models import Model

WARM_UP = 3
LEAST = 3


@dataclass(frozen=True)
class Latency:
    """Seconds for one batch over `repeats` runs after a warm-up."""

    median: float
    low: float
    high: float
    repeats: int


@torch.no_grad()
def latency(model: Model, batch_size: int, repeats: int = 20, seconds: float = 1.0) -> Latency:
    """Time forward passes of random images of `batch_size` on the model's device.

    After `seconds` there are no further repeats, but at least three.
    """
    device, images = model.mean.device, _images(model, batch_size)
    for _ in range(WARM_UP):
        _run(model, images, device)
    found: list[float] = []
    while len(found) < LEAST or (len(found) < repeats and sum(found) < seconds):
        start = time.perf_counter()
        _run(model, images, device)
        found.append(time.perf_counter() - start)
    return Latency(statistics.median(found), min(found), max(found), len(found))


@torch.no_grad()
def peak_memory(model: Model, batch_size: int) -> int:
    """Return how many bytes a forward pass of `batch_size` images has in use at once, beside weights and images.

    On the CPU these are the tensors between the operations; what one needs for itself is not counted.
    """
    device, images = model.mean.device, _images(model, batch_size)
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        _run(model, images, device)
        return int(torch.cuda.max_memory_allocated(device) - before)
    tensors = _Tensors()
    with tensors:
        model(images)
    return tensors.peak


class _Tensors(TorchFunctionMode):
    """Adds up the memory of the tensors made inside it, as long as they live."""

    def __init__(self) -> None:
        super().__init__()
        self.peak: int = 0
        self.live: int = 0
        self.known = weakref.WeakSet[Any]()

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        self.known.update(given.untyped_storage() for given in args if isinstance(given, Tensor))
        for made in result if isinstance(result, tuple) else (result,):
            if isinstance(made, Tensor) and (storage := made.untyped_storage()) not in self.known:
                self.known.add(storage)
                self._add(storage.nbytes())
                weakref.finalize(storage, self._add, -storage.nbytes())
        return result

    def _add(self, size: int) -> None:
        self.live += size
        self.peak = max(self.peak, self.live)


def _images(model: Model, batch_size: int) -> Tensor:
    spec = model.spec
    shape = (batch_size, spec.channels, spec.image_size, spec.image_size)
    return torch.randint(0, 256, shape, dtype=torch.uint8, device=model.mean.device)


def _run(model: Model, images: Tensor, device: torch.device) -> None:
    model(images)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
