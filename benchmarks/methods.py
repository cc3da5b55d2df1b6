"""Every method on one trained model, before any fine-tuning: accuracy by budget, metric and allocation.

    python -m benchmarks.methods [STAGE [SPLIT]]

after `dvc repro`. STAGE names the model in out/ (default: baseline, the dense model), SPLIT the images on which
accuracy is measured (default: validation; `test` once everything is chosen).
"""

import sys
import time
from dataclasses import replace
from typing import Any, cast

import torch

from benchmarks.timing import machine
from stages.paths import DATASET, PARAMS, model_path
from stages.shared import run_stage
from vtp.calibration.moments import Moments, moments
from vtp.calibration.watching import calibration_images
from vtp.checkpoint import load
from vtp.data.dataset import Split, load_dataset
from vtp.lowrank import factorise
from vtp.measure import accuracy
from vtp.models import Model
from vtp.params import DecomposeParams, Params, load_params
from vtp.report import markdown_table, percent

KEEPS = (0.33, 0.5, 0.67)
SETTINGS = [
    (metric, allocation) for metric in ("weight", "activation", "loss") for allocation in ("uniform", "global")
]


def main() -> None:
    """Print a table with a row for each method and budget, a column for each metric and allocation."""
    stage, name = [*sys.argv[1:], *("baseline", "validation")[len(sys.argv) - 1 :]]
    params = load_params(PARAMS)
    torch.set_num_threads(params.machine.threads)
    model, dataset = load(model_path(stage)), load_dataset(DATASET)
    split: Split = getattr(dataset, name)
    images = calibration_images(dataset.train.images, params.calibrate.images, params.seed)
    start = time.perf_counter()
    flows = moments(model, images, params.seed)
    print(machine())
    print(f"moments and gradients of {len(images)} images: {time.perf_counter() - start:.1f} s")
    print(f"accuracy (%) on {len(split)} {name} images without training")
    print(f"{stage} model: {percent(accuracy(model, split))}\n")
    header = ("method", "keep", *(f"{metric}, {allocation}" for metric, allocation in SETTINGS), "seconds")
    print(markdown_table(header, rows(model, params, flows, split)), end="")


def rows(model: Model, params: Params, flows: dict[str, Moments], split: Split) -> list[tuple[str, ...]]:
    """Return the rows; seconds are those of factorising the whole model once, the mean over the settings."""
    found = []
    for method in params.methods:
        for keep in KEEPS:
            start = time.perf_counter()
            models = [
                factorise(model, method, setting(params.decompose, keep, metric, allocation), flows)[0]
                for metric, allocation in SETTINGS
            ]
            seconds = (time.perf_counter() - start) / len(SETTINGS)
            cells = [percent(accuracy(factorised, split)) for factorised in models]
            found.append((method, f"{keep:g}", *cells, f"{seconds:.1f}"))
    return found


def setting(params: DecomposeParams, keep: float, metric: str, allocation: str) -> DecomposeParams:
    """Return `params` with another budget, metric and allocation."""
    return replace(params, keep=keep, metric=cast(Any, metric), allocation=cast(Any, allocation))


if __name__ == "__main__":
    run_stage(main)
