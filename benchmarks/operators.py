"""Where the time of the exported model goes, and how fast it would be if nothing but products took any.

    python -m benchmarks.operators [--batch 128]

The model is that of params.yaml, untrained, dense and with every layer of the blocks factorised, as ONNX Runtime
runs it on one thread. `products of weights` are what factors make smaller, `of tokens` those of attention.
"""

import argparse
import statistics
import tempfile
from collections import defaultdict
from pathlib import Path

import onnxruntime
from torch import Tensor

from benchmarks.latency import KEEPS
from benchmarks.timing import conditions
from benchmarks.untrained_models import factorised, pixels, spec_of, untrained
from stages.shared import run_stage
from vtp.cost import macs
from vtp.export import INPUT, traced, write_onnx
from vtp.files import read_json
from vtp.models import ModelSpec
from vtp.params import load_params
from vtp.report import markdown_table

RUNS = 20
WEIGHTS, TOKENS, REST = "products of weights", "products of tokens", "the rest"
KINDS = {"Gemm": WEIGHTS, "MatMul": TOKENS}


def main() -> None:
    """Print milliseconds of a batch by what they are spent on, and speed-ups over the dense model."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.operators")
    parser.add_argument("--batch", type=int, default=128)
    batch = parser.parse_args().batch
    params = load_params(Path("params.yaml"))
    dense = spec_of(params)
    specs = {"dense": dense} | {f"{keep}": factorised(dense, keep) for keep in KEEPS}
    spent = {name: milliseconds(spec, pixels(spec, batch)) for name, spec in specs.items()}
    rows = []
    for name, found in spent.items():
        speedups = [
            f"{sum(spent['dense'][kind] for kind in kinds) / sum(found[kind] for kind in kinds):.2f}"
            for kinds in ([WEIGHTS], [WEIGHTS, TOKENS], [WEIGHTS, TOKENS, REST])
        ]
        times = [f"{found[kind]:.1f}" for kind in (WEIGHTS, TOKENS, REST)]
        rows.append((name, *times, f"{macs(dense) / macs(specs[name]):.2f}", *speedups))
    header = (
        "keep",
        f"{WEIGHTS} (ms)",
        f"{TOKENS} (ms)",
        f"{REST} (ms)",
        "MAC ratio",
        f"speed-up of {WEIGHTS}",
        "of all products",
        "of all",
    )
    print(f"{conditions(params)}; batch {batch}\n")
    print(markdown_table(header, rows), end="")


def milliseconds(spec: ModelSpec, images: Tensor) -> dict[str, float]:
    """Return what the exported model spends on products and on the rest, in milliseconds a run."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = f"{folder}/profile"
        write_onnx(traced(untrained(spec)), (), Path(folder) / "model.onnx")
        session = onnxruntime.InferenceSession(Path(folder) / "model.onnx", options)
        for _ in range(RUNS):
            session.run(None, {INPUT: images.numpy()})
        events = read_json(Path(session.end_profiling()))
    durations: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in events:
        if event["name"].endswith("_kernel_time"):
            durations[KINDS.get(event["args"]["op_name"], REST), event["name"]].append(event["dur"] / 1000)
    spent = dict.fromkeys((WEIGHTS, TOKENS, REST), 0.0)
    for (kind, _), each in durations.items():
        spent[kind] += statistics.median_high(each)
    return spent


if __name__ == "__main__":
    run_stage(main)
