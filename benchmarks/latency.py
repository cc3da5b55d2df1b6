"""What factorised models gain in time, as ratios to the dense model, by the way they run.

    python -m benchmarks.latency [--cpu] [--ways WAY ...]

The ways: the model as it is trained, its inference form (vtp.inference), that form compiled, and exported to ONNX
Runtime. The model is that of params.yaml, untrained, for images of three channels and ten classes: times do not
depend on the weights, but on `machine.instructions` and `machine.threads`. Every layer of the blocks is factorised
to the same fraction of its parameters. The models take turns, so that whatever else runs on the machine slows them
alike; with --cpu the process's CPU seconds are counted, which is all that can be done where a machine is shared.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.timing import Run, conditions, medians
from benchmarks.untrained_models import factorised, pixels, spec_of, untrained
from stages.shared import run_stage
from vtp.cost import macs
from vtp.export import INPUT, OUTPUT, onnx_session, traced, write_onnx
from vtp.inference import for_inference
from vtp.models import Model
from vtp.params import load_params
from vtp.report import markdown_table

KEEPS = (0.67, 0.5, 0.33)
BATCHES = (1, 16, 128)


def main() -> None:
    """Print the dense model's times, then a table with a row for each keep and way to run."""
    parser = argparse.ArgumentParser(prog="benchmarks.latency", description=__doc__)
    parser.add_argument("--cpu", action="store_true", help="count CPU seconds")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="(all)")
    arguments = parser.parse_args()
    params = load_params(Path("params.yaml"))
    clock = time.process_time if arguments.cpu else time.perf_counter
    torch.set_num_threads(params.machine.threads)
    torch._dynamo.config.recompile_limit = len(BATCHES) * (1 + len(KEEPS))  # all are compiled from the same code
    spec = spec_of(params)
    specs = {"dense": spec} | {f"{keep}": factorised(spec, keep) for keep in KEEPS}
    models = {name: untrained(each) for name, each in specs.items()}
    rows, dense_rows = [], []
    for way in arguments.ways:
        runs = {name: WAYS[way](model) for name, model in models.items()}
        times = {size: medians(runs, pixels(spec, size), clock) for size in BATCHES}
        dense_rows.append((way, *(f"{1000 * times[size]['dense']:.2f}" for size in BATCHES)))
        for keep in map(str, KEEPS):
            ratios = (f"{times[size]['dense'] / times[size][keep]:.2f}" for size in BATCHES)
            rows.append((way, keep, f"{macs(spec) / macs(specs[keep]):.2f}", *ratios))
    batches = [f"batch {size}" for size in BATCHES]
    what = "CPU milliseconds" if arguments.cpu else "milliseconds"
    print(f"{conditions(params)}\n\nThe dense model, {what} a batch\n")
    print(markdown_table(("run", *batches), dense_rows))
    print("Speed-up over the dense model run the same way\n")
    print(markdown_table(("run", "keep", "MAC ratio", *batches), rows), end="")


def as_trained(model: Model) -> Run:
    """Return the model itself."""
    return torch.no_grad()(model)


def inference_form(model: Model) -> Run:
    """Return the model's inference form."""
    return torch.no_grad()(for_inference(model))


def compiled(model: Model) -> Run:
    """Return the inference form, compiled anew for every batch size."""
    return torch.no_grad()(torch.compile(for_inference(model), dynamic=False))


def onnx(model: Model) -> Run:
    """Return the exported model as ONNX Runtime runs it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        write_onnx(traced(model), (), path)
        session = onnx_session(path)
    return lambda images: session.run([OUTPUT], {INPUT: images.numpy()})


WAYS: dict[str, Callable[[Model], Run]] = {
    "as trained": as_trained,
    "inference form": inference_form,
    "compiled": compiled,
    "ONNX Runtime": onnx,
}


if __name__ == "__main__":
    run_stage(main)
