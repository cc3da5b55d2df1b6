"""What each move of factorising brings, without any training after it: small models trained with some seeds.

    python -m benchmarks.moves [SEEDS]

in a folder with params.yaml and what `dvc repro fetch` writes; trains the dense model SEEDS times (default: 5).
Divergence is the mean KL divergence (nats) from the predictions of the dense model, on validation and test images.
"""

import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.decompositions import machine
from stages.paths import DATASET, PARAMS
from vtp.calibration.moments import Moments, moments
from vtp.calibration.watching import calibration_images
from vtp.compression import divergence
from vtp.cost import parameters
from vtp.data.batches import normalisation
from vtp.data.dataset import Dataset, load_dataset
from vtp.lowrank import corrected, factorise
from vtp.models import Model, dense_spec, from_state, initialised
from vtp.params import Params, load_params
from vtp.report import markdown_table
from vtp.training.loop import Recipe, train

KEEPS = (0.5, 0.33, 0.2, 0.1)
BATCHES = (1, 16, 128)
RECOVERY_RATE = 3e-4


def main() -> None:
    """Print a table of divergences, paired by seed, and one of the times of the last models."""
    seeds = range(int(sys.argv[1]) if len(sys.argv) == 2 else 5)
    params, dataset = load_params(PARAMS), load_dataset(DATASET)
    torch.set_num_threads(params.machine.threads)
    images = torch.cat([dataset.validation.images, dataset.test.images])
    found: dict[tuple[float, str], list[float]] = {}
    timed = []
    for seed in seeds:
        dense = trained(params, dataset, seed)
        for keep in KEEPS:
            models = {"dense": dense} | moved(dense, params, dataset, keep)
            for move, model in models.items():
                found.setdefault((keep, move), []).append(divergence(*outputs(dense, model, images))[0])
            if seed == seeds[-1]:
                sizes = ", ".join(f"{name} {parameters(model.spec):,}" for name, model in models.items())
                print(f"keep {keep:g}: parameters {sizes}")
                timed += [(f"{keep:g}", f"{batch}", *times(models, images[:batch])) for batch in BATCHES]
    moves = [move for keep, move in found if keep == KEEPS[0] and move != "dense"]
    rows = [(f"{keep:g}", *(mean_and_deviation(found[keep, move]) for move in moves)) for keep in KEEPS]
    print(f"\n{machine()}; {params.machine.threads} thread; n = {len(seeds)}; {len(images)} images\n")
    print(markdown_table(("keep", *moves), rows))
    print(markdown_table(("keep", "batch", "dense, ms", *(f"{move}, ratio" for move in moves)), timed), end="")


def trained(params: Params, dataset: Dataset, seed: int) -> Model:
    """Return the dense model of params.yaml, trained with another seed."""
    spec = dense_spec(
        params.model,
        channels=dataset.channels,
        classes=len(dataset.class_names),
        image_size=params.data.image_size,
    )
    recipe = Recipe("baseline", seed, params.baseline.epochs, params.baseline.learning_rate, params.training)
    model = initialised(spec, seed, *normalisation(dataset.train))
    with TemporaryDirectory() as folder:
        resume = Path(folder) / "state"
        return train(model, dataset.train, dataset.validation, recipe, resume=resume, watcher=Silent())[0]


class Silent:
    """Watches a training and says nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: None


def moved(dense: Model, params: Params, dataset: Dataset, keep: float) -> dict[str, Model]:
    """Return move -> the model with it and those before it."""
    images = calibration_images(dataset.train.images, params.calibrate.images, params.seed)
    flows = moments(dense, images, params.seed)
    pair, pivot = (factorised(dense, params, flows, keep, form) for form in ("pair", "pivot"))
    refitted = corrected(pivot, dense, images)
    found = {"pair": pair, "pivot": pivot, "corrected": refitted}
    return found | {"recovered": recovered(refitted, dense, images, params.seed)}


def recovered(model: Model, teacher: Model, images: Tensor, seed: int, steps: int = 300) -> Model:
    """Return the model after some steps of distillation from the teacher, without labels."""
    student = from_state(model.spec, model.state_dict())
    optimizer = torch.optim.Adam(student.parameters(), RECOVERY_RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        batch = images[torch.randint(len(images), (64,), generator=generator)]
        with torch.no_grad():
            wanted = teacher(batch).log_softmax(1)
        loss = F.kl_div(student(batch).log_softmax(1), wanted, log_target=True, reduction="batchmean")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return student


def factorised(dense: Model, params: Params, flows: dict[str, Moments], keep: float, form: str) -> Model:
    """Return the model in that form, by the method of params.yaml."""
    plan = replace(params.decompose, keep=keep, form=cast(Any, form))
    return factorise(dense, params.decomp, plan, flows)[0].eval()


@torch.no_grad()
def outputs(dense: Model, model: Model, images: Tensor) -> list[Tensor]:
    """Return the logits of both."""
    return [torch.cat([each(batch) for batch in images.split(128)]) for each in (dense, model)]


def mean_and_deviation(values: list[float]) -> str:
    """Return `mean ± standard deviation`."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.4f} ± {deviation:.4f}"


@torch.no_grad()
def times(models: dict[str, Model], images: Tensor, repeats: int = 40) -> list[str]:
    """Return the median milliseconds of the first model, and those of the others over them; all run in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(repeats):
        for name, model in models.items():
            start = time.perf_counter()
            model(images)
            seconds[name].append(time.perf_counter() - start)
    dense, *others = (statistics.median(found) for found in seconds.values())
    return [f"{1000 * dense:.2f}", *(f"{other / dense:.2f}" for other in others)]


if __name__ == "__main__":
    main()
