"""How near a model that was factorised for a time comes to it.

    python -m benchmarks.times

The model is that of params.yaml, untrained, for images of three channels and ten classes. For each batch its
layers are timed once, as `calibrate` does; then it is factorised by `svd` to a part of its time, the budget
`latency`, and what was predicted is compared with the time of the fastest of some runs. The machine must be idle.
"""

import time
from pathlib import Path

import torch

from benchmarks.latency import BATCHES
from benchmarks.timing import conditions
from benchmarks.untrained_models import pixels, spec_of, untrained
from stages.shared import run_stage
from vtp.calibration.moments import moments
from vtp.inference.times import measured, milliseconds
from vtp.lowrank import factorise
from vtp.params import DecomposeParams, load_params
from vtp.report import markdown_table

KEEPS = (0.9, 0.8)
IMAGES = 256


def main() -> None:
    """Print a table with a row for each batch and keep."""
    params = load_params(Path("params.yaml"))
    torch.set_num_threads(params.machine.threads)
    spec = spec_of(params)
    model = untrained(spec)
    flows = moments(model, pixels(spec, IMAGES), 0)
    rows = []
    for batch in BATCHES:
        start = time.perf_counter()
        times = measured(model, batch, model)
        seconds = time.perf_counter() - start
        for keep in KEEPS:
            plan = DecomposeParams(
                keep=keep, budget="latency", allocation="global", metric="weight", form="auto", correction="none"
            )
            small, units = factorise(model, "svd", plan, flows, times)
            predicted = times.predicted({unit.unit: unit.rank for unit in units})
            found = milliseconds(small, batch)
            off, part = f"{found / predicted - 1:+.0%}", f"{found / times.total:.2f}"
            rows.append((f"{batch}", f"{seconds:.0f}", f"{keep}", f"{predicted:.2f}", f"{found:.2f}", off, part))
    print(f"{conditions(params)}\n")
    header = ("batch", "timing (s)", "keep", "predicted (ms)", "measured (ms)", "off by", "kept")
    print(markdown_table(header, rows), end="")


if __name__ == "__main__":
    run_stage(main)
