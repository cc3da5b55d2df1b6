"""Ours against published methods: one dense model, one set of calibration images, equal parameters.

    python -m benchmarks.frontier [--seeds COUNT]       # models trained with so many seeds (default: 5)
    python -m benchmarks.frontier --checkpoint PATH     # one model, such as out/baseline/model.safetensors

in a folder with params.yaml and what `dvc repro fetch` writes, after `make tested`, which brings timm, and
`pip install torch-pruning==1.6.1`.

Every model has the parameters of one that keeps that fraction of the weights of the blocks' layers, within 1 %: a
method that gives more or fewer is asked again for so many fewer or more. Divergence is the mean KL divergence
(nats) from the predictions of the dense model, without any training; accuracy is that without training, and
fine-tuned after the recipe of params.yaml with --epochs (default: 5). All are on validation images, and on test
images too where the models were trained here. Time is that of 128 images over that of the dense model, CPU seconds
of the inference form, medians of models that take turns. Seconds are of CPU, of compressing once and what comes
before it (a search that several budgets share counts for the first); of the smaller model, of its training.

Differences are ours minus the other's, paired by seed, or, of one model, by image, with the 95 % interval of their
mean by Student's t.
"""

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.frontier_report import Found, Result, table
from benchmarks.latency import inference_form
from benchmarks.lowrank_rivals import asvd, flar_svd, fwsvd, plain_svd, svd_llm
from benchmarks.moves import dims_then_ranks
from benchmarks.pruning_rivals import Make, corp, smaller, vbp
from benchmarks.timing import machine, medians
from benchmarks.torch_pruning_rival import torch_pruning
from benchmarks.trained_models import Given, fitted, held_out, spread, trained
from benchmarks.untrained_models import pixels
from stages.paths import DATASET, PARAMS
from stages.shared import run_stage
from vtp.checkpoint import load
from vtp.cost import macs, parameters
from vtp.data.dataset import Split, load_dataset
from vtp.measure import logits
from vtp.models import Model
from vtp.models.spec import Form
from vtp.params import load_params
from vtp.prune import weights
from vtp.training.loop import Recipe

KEEPS = (0.5, 0.33, 0.2)
TOLERANCE = 0.01  # of the parameters
TRIES = 4


def ours(given: Given, form: Form = "pivot") -> Make:
    """Dims that lose least, then ranks, both corrected (docs/methods.md)."""
    return lambda keep: dims_then_ranks(given.dense, given.params, given.images, keep, form)


METHODS: dict[str, Callable[[Given], Make]] = {
    "ours": ours,
    "ours, pairs": partial(ours, form="pair"),
    "SVD": plain_svd,
    "FWSVD": fwsvd,
    "ASVD": asvd,
    "SVD-LLM": svd_llm,
    "FLAR-SVD": flar_svd,
    "CORP": corp,
    "VBP": vbp,
    "Torch-Pruning, inner dims": partial(torch_pruning, inner=True),
    "Torch-Pruning, all dims": partial(torch_pruning, inner=False),
    "smaller": smaller,
}


def main() -> None:
    """Print a table for each budget."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.frontier")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--keeps", type=float, nargs="+", default=KEEPS)
    parser.add_argument("--epochs", type=int, default=5, help="of fine-tuning")
    parser.add_argument("--skip", nargs="+", default=(), choices=list(METHODS)[1:], help="left out")
    options = parser.parse_args()
    params, dataset = load_params(PARAMS), load_dataset(DATASET)
    torch.set_num_threads(params.machine.threads)
    count = 1 if options.checkpoint else options.seeds
    split = dataset.validation if options.checkpoint else held_out(dataset)
    methods = {name: method for name, method in METHODS.items() if name not in options.skip}
    found: dict[float, Found] = {keep: {name: [] for name in methods} for keep in options.keeps}
    right = []
    for seed in range(count):
        dense = load(options.checkpoint) if options.checkpoint else trained(params, dataset, seed)
        given = Given(dense, params, dataset, seed)
        right.append(float(hits(dense, split).mean()))
        for keep, models in compressed(given, methods, options.keeps).items():
            for name, result in results(given, keep, models, split, options.epochs).items():
                found[keep][name].append(result)
            print(f"seed {seed}, keep {keep:g}: done", file=sys.stderr, flush=True)
    print(f"{machine()}; {params.machine.threads} thread; n = {count}; {len(split)} images\n")
    print(f"accuracy of the dense model: {spread(right)}")
    for keep, of_methods in found.items():
        print(f"\nkeep {keep:g}, fine-tuned for {options.epochs} epochs\n")
        print(table(of_methods), end="", flush=True)


def compressed(
    given: Given, methods: dict[str, Callable[[Given], Make]], keeps: list[float]
) -> dict[float, dict[str, tuple[Model | None, float]]]:
    """Return the model of each budget and method, and the CPU seconds that it took."""
    models: dict[float, dict[str, tuple[Model | None, float]]] = {keep: {} for keep in keeps}
    for name, method in methods.items():
        start = time.process_time()
        make = method(given)
        before = time.process_time() - start
        for keep in keeps:
            model, seconds = in_budget(make, given, keep)
            models[keep][name] = model, before + seconds
    return models


def in_budget(make: Make, given: Given, keep: float) -> tuple[Model | None, float]:
    """Return the model of the parameters that `keep` means, or the nearest found, and the CPU seconds it took."""
    budget, asked, found = given.budget(keep), keep, list[tuple[float, Model, float]]()
    for _ in range(TRIES):
        start = time.process_time()
        model = make(asked)
        if model is None:
            break
        missing = budget - parameters(model.spec)
        found.append((abs(missing), model, time.process_time() - start))
        if abs(missing) <= TOLERANCE / 4 * budget:
            break
        asked += missing / weights(given.dense)
    _, nearest, seconds = min(found, key=lambda each: each[0], default=(0.0, None, 0.0))
    return nearest, seconds


def results(
    given: Given, keep: float, models: dict[str, tuple[Model | None, float]], split: Split, epochs: int
) -> dict[str, Result]:
    """Return what was measured of the models of one budget; those that there are not are left out."""
    dense, plan, budget = given.dense, given.params.finetune, given.budget(keep)
    recipe = Recipe(
        "finetune",
        given.seed,
        epochs,
        plan.learning_rate,
        given.params.training,
        distillation=plan.distillation,
        temperature=plan.temperature,
    )
    made = {name: (model, seconds) for name, (model, seconds) in models.items() if model is not None}
    runs = {"dense": inference_form(dense)} | {name: inference_form(model) for name, (model, _) in made.items()}
    times = medians(runs, pixels(dense.spec, 128), time.process_time)
    expected = logits(dense, split.images).double().log_softmax(1)
    found = {}
    for name, (model, seconds) in made.items():
        predicted = logits(model, split.images).double().log_softmax(1)
        size = parameters(model.spec)
        found[name] = Result(
            parameters=size / parameters(dense.spec),
            macs=macs(model.spec) / macs(dense.spec),
            time=times[name] / times["dense"],
            in_budget=abs(size / budget - 1) <= TOLERANCE,
            seconds=seconds,
            divergence=(expected.exp() * (expected - predicted)).sum(1),
            accuracy=hits(model, split),
            tuned=hits(fitted(model, given.dataset, recipe, dense), split) if epochs else None,
        )
    return found


def hits(model: Model, split: Split) -> Tensor:
    """Return 1 for each image whose label is met, else 0."""
    return (logits(model, split.images).argmax(1) == split.labels).double()


if __name__ == "__main__":
    run_stage(main)
