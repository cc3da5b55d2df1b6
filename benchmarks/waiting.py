"""How long threads should turn at a barrier before they sleep, alone and beside other work.

    python -m benchmarks.waiting [--turns 0 1000]

Training steps of the model of params.yaml, in bfloat16 and not compiled, with its number of threads, for each
`GOMP_SPINCOUNT`: on a machine that is idle but for it, beside a process that keeps a core busy, and beside a
second run of the same. Images a second, the mean of the rounds.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks.timing import conditions
from benchmarks.training import random_batch, training_step
from stages.shared import run_stage
from vtp.params import load_params
from vtp.report import markdown_table

SECONDS = 4.0  # of steps in a run
ROUNDS = 2
SELF = (sys.executable, "-m", "benchmarks.waiting")
BESIDE = {
    "alone": (sys.executable, "-c", ""),  # which ends at once
    "beside a busy process": (sys.executable, "-c", "while True: pass"),
    "beside its twin": (*SELF, "--steps", "1000"),
}


def main() -> None:
    """Print a row for each number of turns; with `--steps`, images a second of this process alone."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.waiting")
    parser.add_argument("--turns", type=int, nargs="+", default=(0, 500, 1000, 2000, 20000))
    parser.add_argument("--steps", type=float, metavar="SECONDS", help="only take steps, for so long")
    options = parser.parse_args()
    if options.steps:
        print(images_per_second(options.steps))
        return
    rates: dict[tuple[int, str], list[float]] = {}
    for _ in range(ROUNDS):
        for turns in options.turns:
            for name, other in BESIDE.items():
                rates.setdefault((turns, name), []).append(rate_beside(other, turns))
    rows = [
        (f"{turns:,}", *(f"{statistics.mean(rates[turns, name]):,.0f}" for name in BESIDE))
        for turns in options.turns
    ]
    print(f"{conditions(load_params(Path('params.yaml')))}; images/s\n")
    print(markdown_table(("turns", *BESIDE), rows), end="")


def rate_beside(other: tuple[str, ...], turns: int) -> float:
    """Return images a second of a process of its own while `other` runs."""
    environment = os.environ | {"GOMP_SPINCOUNT": str(turns)}
    command = (*SELF, "--steps", str(SECONDS))
    with subprocess.Popen(other, env=environment, stdout=subprocess.DEVNULL) as process:
        try:
            return float(subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE).stdout)
        finally:
            process.kill()


def images_per_second(seconds: float) -> float:
    """Take steps for `seconds` after two that do not count; return images a second."""
    params = load_params(Path("params.yaml"))
    torch.set_num_threads(params.machine.threads)
    images, labels = random_batch(params)
    step = training_step(params, images, labels, "bfloat16", compiled=False)
    for _ in range(2):
        step()
    count, start = 0, time.perf_counter()
    while time.perf_counter() < start + seconds:
        step()
        count += 1
    return count * len(images) / (time.perf_counter() - start)


if __name__ == "__main__":
    run_stage(main)
