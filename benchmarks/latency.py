"""What factorised models gain in time, as ratios to the dense model: eager, compiled, and in ONNX Runtime.

    python -m benchmarks.latency [CONFIG]

The model is that of the params.yaml CONFIG (default: configs/cifar10-small.yaml), untrained, for images of three
channels and ten classes: times do not depend on the weights. Every layer of the blocks is factorised to the same
fraction of its parameters. The models take turns, so that whatever else runs on the machine slows them all alike.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.decompositions import machine
from vtp.cost import macs
from vtp.export import INPUT, OUTPUT, onnx_session, traced, write_onnx
from vtp.models import Model, ModelSpec, build, dense_spec, factorisable, initialised
from vtp.models.spec import Factor
from vtp.params import load_params
from vtp.report import markdown_table

KEEPS = (0.67, 0.5, 0.33)
BATCHES = (1, 16, 128)
REPEATS = 15


def main() -> None:
    """Print the dense model's times and a table with a row for each keep and way to run."""
    params = load_params(Path(sys.argv[1] if len(sys.argv) > 1 else "configs/cifar10-small.yaml"))
    torch.set_num_threads(params.machine.threads)
    torch._dynamo.config.recompile_limit = len(BATCHES) * (1 + len(KEEPS))  # all are compiled from the same code
    spec = dense_spec(params.model, image_size=params.data.image_size, channels=3, classes=10)
    specs = {"dense": spec} | {f"{keep}": factorised(spec, keep) for keep in KEEPS}
    models = {name: initialised(each, 0, (128.0,) * 3, (64.0,) * 3) for name, each in specs.items()}
    print(f"{machine()}; speed-up over the dense model run the same way, by batch size\n")
    rows, dense_rows = [], []
    for way, prepare in {"eager": eager, "compiled": compiled, "ONNX Runtime": onnx}.items():
        runs = {name: prepare(model) for name, model in models.items()}
        times = {size: medians(runs, pixels(spec, size)) for size in BATCHES}
        dense_rows.append((way, *(f"{1000 * times[size]['dense']:.2f}" for size in BATCHES)))
        for keep in map(str, KEEPS):
            ratios = (f"{times[size]['dense'] / times[size][keep]:.2f}" for size in BATCHES)
            rows.append((way, keep, f"{macs(spec) / macs(specs[keep]):.2f}", *ratios))
    batches = [f"batch {size}" for size in BATCHES]
    print(markdown_table(("run", "keep", "MAC ratio", *batches), rows))
    print("dense model, milliseconds a batch\n")
    print(markdown_table(("run", *batches), dense_rows), end="")


def factorised(spec: ModelSpec, keep: float) -> ModelSpec:
    """Return the spec whose every layer in the blocks has the largest rank within `keep` of its parameters."""
    factors = {}
    for name, layer in factorisable(build(spec)).items():
        rows, columns = layer.weight.flatten(1).shape
        rank = max(1, int(keep * rows * columns / (rows + columns)))
        factors[name] = Factor(rank, layer.bias is not None)
    return replace(spec, factors=factors)


def pixels(spec: ModelSpec, count: int) -> Tensor:
    """Return random images (count, C, H, W), uint8."""
    return torch.randint(0, 256, (count, spec.channels, spec.image_size, spec.image_size), dtype=torch.uint8)


def eager(model: Model) -> Callable[[Tensor], object]:
    """Return the model itself."""
    return torch.no_grad()(model)


def compiled(model: Model) -> Callable[[Tensor], object]:
    """Return the model compiled anew for every batch size."""
    return torch.no_grad()(torch.compile(model, dynamic=False))


def onnx(model: Model) -> Callable[[Tensor], object]:
    """Return the model as ONNX Runtime runs it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        write_onnx(traced(model), (), path)
        session = onnx_session(path)
    return lambda images: session.run([OUTPUT], {INPUT: images.numpy()})


def medians(runs: Mapping[str, Callable[[Tensor], object]], images: Tensor) -> dict[str, float]:
    """Return the median seconds of each after a warm-up, the models taking turns."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(2 + REPEATS):
        for name, run in runs.items():
            start = time.perf_counter()
            run(images)
            if turn >= 2:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(found) for name, found in seconds.items()}


if __name__ == "__main__":
    main()
