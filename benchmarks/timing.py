"""How times are taken, and what they depend on."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import scipy
import torch
from torch import Tensor

from vtp.params import Params

WARM_UP, LEAST, SECONDS = 2, 7, 2.0

Run = Callable[[Tensor], object]


def machine() -> str:
    """The processor, how many of its cores this process may use, and the versions that matter."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    model = names[0] if names else platform.machine()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = f"torch {torch.__version__}, numpy {np.__version__}, scipy {scipy.__version__}"
    return f"{model}, {cores} cores; {versions}"


def conditions(params: Params) -> str:
    """Return what times depend on beside the model: the machine, its instructions, the threads."""
    return f"{machine()}; {torch.backends.cpu.get_cpu_capability()}, threads: {params.machine.threads}"


def medians(runs: Mapping[str, Run], images: Tensor, clock: Callable[[], float]) -> dict[str, float]:
    """Return the median seconds of each after a warm-up, the models taking turns for SECONDS, LEAST at least."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        for _ in range(WARM_UP):
            run(images)
    end, turns = time.perf_counter() + SECONDS, 0
    while turns < LEAST or time.perf_counter() < end:
        turns += 1
        for name, run in runs.items():
            start = clock()
            run(images)
            seconds[name].append(clock() - start)
    return {name: statistics.median(found) for name, found in seconds.items()}
