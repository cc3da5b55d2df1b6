"""What each move of compressing brings, without any training after it.

    python -m benchmarks.moves [--seeds COUNT]       # models trained with so many seeds (default: 5)
    python -m benchmarks.moves --timm                # of models that timm builds, after `make tested`
    python -m benchmarks.moves --checkpoint PATH …   # these models, such as out/baseline/model.safetensors
    python -m benchmarks.moves --keeps 0.33 0.2      # other budgets than five
    python -m benchmarks.moves --recover 2000 --unlabelled 45000   # a longer recovery, of more images

in a folder with params.yaml and what `dvc repro fetch` writes. Divergence is the mean KL divergence (nats) from
the predictions of the dense model, accuracy the fraction of labels met, both on validation images, and on test
images too where the models were trained here. The 95 % intervals are of paired ratios of divergences, by
Student's t of their logarithms: of each move to the first, and of dims and ranks together to each move.
"""

import argparse
import math
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import scipy.stats
import torch
from torch import Tensor

from benchmarks.timing import machine
from benchmarks.trained_models import baseline, built_by_timm, held_out, measured, spread, trained
from stages.paths import DATASET, PARAMS
from stages.shared import run_stage
from vtp.budget import Budget
from vtp.calibration.moments import Moments, moments
from vtp.calibration.watching import calibration_images
from vtp.checkpoint import load
from vtp.compression.recovery import STEP, recovered
from vtp.cost import macs, parameters
from vtp.data.dataset import Dataset, load_dataset
from vtp.lowrank import corrected, factorise
from vtp.measure import logits
from vtp.models import Model, from_state
from vtp.models.spec import Form
from vtp.params import DecomposeParams, Params, load_params
from vtp.prune import Narrowing, shared, weights
from vtp.prune import corrected as writers_corrected
from vtp.report import markdown_table

KEEPS = (0.67, 0.5, 0.33, 0.2, 0.1)
PAIR, MIX = "pair", "dims, then ranks, corrected"


def main() -> None:
    """Print a table of divergences, paired by seed, with accuracies and seconds."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.moves")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--timm", action="store_true")
    parser.add_argument("--checkpoint", type=Path, nargs="+")
    parser.add_argument("--keeps", type=float, nargs="+", default=KEEPS)
    parser.add_argument("--recover", type=int, default=300, help="steps of the recovery")
    parser.add_argument("--unlabelled", type=int, help="images of it; by default those of the calibration")
    options = parser.parse_args()
    params, dataset = load_params(PARAMS), load_dataset(DATASET)
    count = options.unlabelled or params.calibrate.images
    unlabelled = calibration_images(dataset.train.images, count, params.seed)
    torch.set_num_threads(params.machine.threads)
    if options.checkpoint:
        models, split = [load(path) for path in options.checkpoint], dataset.validation
    else:
        seeds = range(options.seeds)
        if options.timm:
            models = [baseline(built_by_timm(params, dataset, seed), params, dataset, seed) for seed in seeds]
        else:
            models = [trained(params, dataset, seed) for seed in seeds]
        split = held_out(dataset)
    dense_accuracy = statistics.mean(measured(model, model, split)[1] for model in models)
    print(f"{machine()}; {params.machine.threads} thread; n = {len(models)}; {len(split)} images\n")
    print(f"accuracy of the dense model: {dense_accuracy:.2%}\n")
    for keep in options.keeps:
        found: dict[str, list[tuple[float, float, Model, float]]] = {}
        for dense in models:
            for move, model, seconds in moved(dense, params, dataset, keep, unlabelled, options.recover):
                found.setdefault(move, []).append((*measured(dense, model, split), model, seconds))
        print(f"keep {keep:g}\n\n" + table(found, models[0]), flush=True)


def table(found: dict[str, list[tuple[float, float, Model, float]]], dense: Model) -> str:
    """Return the rows of one budget: the moves, with their ratios to two of them."""
    divergences = {move: [entry[0] for entry in entries] for move, entries in found.items()}
    rows = []
    for move, entries in found.items():
        lost = divergences[move]
        _, right, models, seconds = (list(column) for column in zip(*entries, strict=True))
        spec = cast(Model, models[0]).spec
        rows.append(
            (
                move,
                spread(lost, ".1e"),
                interval(lost, divergences[PAIR]),
                interval(divergences[MIX], lost),
                f"{statistics.mean(cast(list[float], right)):.2%}",
                f"{parameters(spec) / parameters(dense.spec):.3f}",
                f"{macs(spec) / macs(dense.spec):.3f}",
                f"{statistics.mean(cast(list[float], seconds)):.1f}",
            )
        )
    ratios = ("ratio to pair", "ratio of the mix")
    header = ("move", "divergence", *ratios, "accuracy", "parameters", "MACs", "seconds")
    return markdown_table(header, rows)


def moved(
    dense: Model, params: Params, dataset: Dataset, keep: float, unlabelled: Tensor, steps: int
) -> Iterator[tuple[str, Model, float]]:
    """Yield each move, the model with it, and the seconds of CPU time that the model took.

    The last one is a recovery of so many steps, on the images `unlabelled`.
    """
    images = calibration_images(dataset.train.images, params.calibrate.images, params.seed)
    start = time.process_time()
    flows = moments(dense, images, params.seed)
    calibrated = time.process_time() - start

    def timed(made: Any, before: float) -> tuple[Model, float]:
        start = time.process_time()
        return made(), before + time.process_time() - start

    for form in (PAIR, "pivot"):
        model, seconds = timed(lambda form=form: factorised(dense, params, flows, keep, form), calibrated)
        yield form, model, seconds
    plan = plan_of(params, keep, "pivot")
    yield (
        "pivot, corrected",
        *timed(lambda: corrected(model, dense, dense, images, params.decomp, plan, flows), seconds),
    )
    yield "dims", *timed(lambda: cut(dense, flows, images, keep), calibrated)
    mixed, seconds = timed(lambda: dims_then_ranks(dense, params, images, keep), 0.0)
    yield MIX, mixed, seconds
    yield (
        "the same, recovered",
        *timed(lambda: distilled(mixed, dense, unlabelled, images, steps, params.seed), seconds),
    )


def dims_then_ranks(dense: Model, params: Params, images: Tensor, keep: float, form: Form = "pivot") -> Model:
    """Return the model whose dims and ranks share the budget, as the pipeline makes it of `compress.keep`."""
    slim = shared(dense, dense, dense, images, Budget(keep, "parameters", form), params.seed).model
    flows = moments(slim, images, params.seed)
    left = min(1.0, keep * weights(dense) / weights(slim))
    made = factorised(slim, params, flows, left, form)
    return corrected(made, slim, dense, images, params.decomp, plan_of(params, left, form), flows)


def cut(dense: Model, flows: dict[str, Moments], images: Tensor, keep: float) -> Model:
    """Return the model with fewer dims, refitted."""
    return writers_corrected(Narrowing.of(dense, flows).to(keep)[0], dense, images)


def factorised(dense: Model, params: Params, flows: dict[str, Moments], keep: float, form: str) -> Model:
    """Return the model in that form, by the method of params.yaml."""
    return factorise(dense, params.decomp, plan_of(params, keep, form), flows)[0].eval()


def plan_of(params: Params, keep: float, form: str) -> DecomposeParams:
    """Return the section `decompose` with that budget and form."""
    return replace(params.decompose, keep=keep, form=cast(Any, form))


def distilled(model: Model, dense: Model, unlabelled: Tensor, images: Tensor, steps: int, seed: int) -> Model:
    """Return the model after the recovery that `compress` offers, if that brought it nearer on `images`."""
    student = from_state(model.spec, model.state_dict()).eval()
    seen, compared = unlabelled.split(STEP), images.split(STEP)
    recovered(student, student, dense, seen, compared, logits(dense, images), steps, seed)
    return student


def interval(values: list[float], others: list[float]) -> str:
    """Return the geometric mean of the paired ratios, with its 95 % interval where there are pairs enough."""
    ratios = [math.log(value / other) for value, other in zip(values, others, strict=True)]
    mean = statistics.mean(ratios)
    if len(ratios) < 3:
        return f"{math.exp(mean):.2f}"
    half = float(scipy.stats.t.ppf(0.975, len(ratios) - 1)) * statistics.stdev(ratios) / len(ratios) ** 0.5
    return f"{math.exp(mean):.2f} ({math.exp(mean - half):.2f}-{math.exp(mean + half):.2f})"


if __name__ == "__main__":
    run_stage(main)
