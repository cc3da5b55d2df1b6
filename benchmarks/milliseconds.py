"""What is lost at a budget of milliseconds: by ranks alone, by dims alone, and by both together.

    python -m benchmarks.milliseconds --checkpoint out/baseline/model.safetensors [--batch 128] [--keeps 0.7 0.5]

in a folder with params.yaml and what `dvc repro fetch` writes; nothing is trained. `keep` is the fraction of the
dense model's time for the batch, in the inference form. What each model really takes is measured in turns with the
dense one. The machine must be idle. Divergence (nats) and accuracy are of validation images.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.timing import machine
from benchmarks.trained_models import measured as lost
from stages.paths import DATASET, PARAMS
from stages.shared import run_stage
from vtp.budget import Budget
from vtp.calibration.moments import Moments, moments
from vtp.calibration.watching import calibration_images
from vtp.checkpoint import load
from vtp.cost import macs
from vtp.data.dataset import Split, load_dataset
from vtp.errors import UserError
from vtp.inference import for_inference
from vtp.inference.times import measured
from vtp.latency import latency
from vtp.lowrank import corrected, factorise
from vtp.models import Model
from vtp.params import Params, load_params
from vtp.prune import Narrowing, shared
from vtp.prune import corrected as writers_corrected
from vtp.prune.sharing import STEP
from vtp.report import markdown_table

TURNS = 5
STEPS = 6  # of the search for dims


def main() -> None:
    """Print a row for each budget and way to keep it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.milliseconds")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--keeps", type=float, nargs="+", default=(0.7, 0.5))
    options = parser.parse_args()
    params, dataset = load_params(PARAMS), load_dataset(DATASET)
    torch.set_num_threads(params.machine.threads)
    dense = load(options.checkpoint)
    images = calibration_images(dataset.train.images, params.calibrate.images, params.seed)
    flows, rows = moments(dense, images, params.seed), []
    for keep in options.keeps:
        budget = Budget(keep, "latency", "pair", options.batch)
        for way, small in ways(dense, params, images, flows, budget):
            figures = row(small, dense, dataset.validation, options.batch) if small else ("cannot", "", "", "")
            rows.append((f"{keep:g}", way, *figures))
    size = len(dataset.validation)
    print(f"{machine()}; {params.machine.threads} thread; batch {options.batch}; {size} images\n")
    print(f"accuracy of the dense model: {lost(dense, dense, dataset.validation)[1]:.2%}\n")
    print(markdown_table(("keep", "", "time", "MACs", "divergence", "accuracy"), rows), end="")


def ways(
    dense: Model, params: Params, images: Tensor, flows: dict[str, Moments], budget: Budget
) -> Iterator[tuple[str, Model | None]]:
    """Yield each way to keep the budget, and its model, None where it cannot."""
    yield "ranks", by_ranks(dense, dense, params, images, flows, budget)
    yield "dims", by_dims(dense, images, flows, budget)
    slim = shared(dense, dense, dense, images, budget, params.seed).model
    yield "dims and ranks", by_ranks(slim, dense, params, images, moments(slim, images, params.seed), budget)


def row(small: Model, dense: Model, split: Split, batch: int) -> tuple[str, str, str, str]:
    """Return the model's time and MACs over the dense one's, its divergence and accuracy."""
    divergence, right = lost(dense, small, split)
    saved = f"{macs(small.spec) / macs(dense.spec):.2f}"
    return f"{part(small, dense, batch):.2f}", saved, f"{divergence:.1e}", f"{right:.2%}"


def by_ranks(
    slim: Model, dense: Model, params: Params, images: Tensor, flows: dict[str, Moments], budget: Budget
) -> Model | None:
    """Return the slim model with ranks that bring it to the budget, corrected, as the pipeline makes it."""
    times = measured(slim, budget.batch, dense)
    keep = min(1.0, budget.keep * times.dense / times.total)
    plan = replace(params.decompose, budget="latency", keep=keep)
    try:
        made = factorise(slim, params.decomp, plan, flows, times)[0].eval()
    except UserError:
        return None
    return corrected(made, slim, dense, images, params.decomp, plan, flows)


def by_dims(dense: Model, images: Tensor, flows: dict[str, Moments], budget: Budget) -> Model | None:
    """Return the model of most dims that takes the time, found by bisection."""
    narrowing = Narrowing.of(dense, flows, STEP)
    low, high, found = 0.02, 1.0, None
    for _ in range(STEPS):
        keep = (low + high) / 2
        small = writers_corrected(narrowing.to(keep)[0], dense, images)
        if part(small, dense, budget.batch) <= budget.keep:
            low, found = keep, small
        else:
            high = keep
    return found


def part(small: Model, dense: Model, batch: int) -> float:
    """Return the model's time over the dense one's, of the fastest of runs in turns."""
    forms = [for_inference(model) for model in (small, dense)]
    turns = [[latency(form, batch).low for form in forms] for _ in range(TURNS)]
    return min(ours for ours, _ in turns) / min(whole for _, whole in turns)


if __name__ == "__main__":
    run_stage(main)
