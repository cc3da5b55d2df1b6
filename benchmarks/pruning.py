"""Pruning a trained and scored model by each choice; and what heads of unequal size cost.

    python -m benchmarks.pruning [finetune]

after `dvc repro sparsify`: cuts out/sparsify at three rates, and prints accuracy on the validation images,
parameters, MACs and time; with `finetune` also after an epoch of fine-tuning on half of the training images. Then
the attention of one block whose heads have lost different numbers of dims, in three forms: grouped, as it is here;
padded to the largest head; and with as many dims, equally many a head.
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from benchmarks.timing import machine
from stages.finetune import recipe_of
from stages.paths import DATASET, PARAMS, model_path
from stages.progress import shown
from stages.shared import run_stage
from vtp.calibration.watching import calibration_images
from vtp.checkpoint import load
from vtp.cost import macs, parameters
from vtp.data.dataset import Dataset, Split, load_dataset
from vtp.measure import accuracy
from vtp.models import Model, from_state
from vtp.models.vit.block import Attention
from vtp.models.vit.spec import HeadSpec
from vtp.params import Params, load_params
from vtp.prune import choose_cut, corrected, slim
from vtp.report import count, markdown_table, percent
from vtp.scores import scores
from vtp.training.loop import train_epoch
from vtp.training.optimizer import make_optimizer

RATES = (0.3, 0.5, 0.7)
THRESHOLDS = ("global", "layer", "head")
BATCH = 128
REPEATS = 30
LEFT_IN_HEADS = [
    (32, 32, 32, 32, 32, 32),
    (32, 32, 32, 24, 24, 24),
    (32, 30, 27, 21, 14, 8),
    (31, 26, 20, 9, 4, 2),
]


def ratios(runs: Sequence[Callable[[], object]]) -> list[float]:
    """Return the median time of each run over that of the first; they take turns, to see the same machine."""
    seconds: list[list[float]] = [[] for _ in runs]
    for repeat in range(REPEATS + 1):
        for index, run in enumerate(runs):
            start = time.perf_counter()
            run()
            if repeat:  # the first one warms up
                seconds[index].append(time.perf_counter() - start)
    medians = [sorted(values)[len(values) // 2] for values in seconds]
    return [median / medians[0] for median in medians]


def finetuned(model: Model, teacher: Model, dataset: Dataset, params: Params) -> Model:
    """Return the model after an epoch on half of the training images."""
    half = Split(dataset.train.images[::2], dataset.train.labels[::2])
    recipe = replace(recipe_of(params), epochs=1)
    trained = from_state(model.spec, model.state_dict()).train()
    train_epoch(
        trained, half, make_optimizer(trained, recipe.shared), recipe, 0, shown("finetune", 1, len(half)), teacher
    )
    return trained.eval()


def pruning_table(with_training: bool) -> str:
    """Return a row for each rate and threshold."""
    params = load_params(PARAMS)
    torch.set_num_threads(params.machine.threads)
    dataset = load_dataset(DATASET)
    dense, scored = load(model_path("baseline")), load(model_path("sparsify"))
    images = calibration_images(dataset.train.images, params.prune.images, params.seed)
    print(f"dense {percent(accuracy(dense, dataset.validation))} %, scored ", end="")
    print(f"{percent(accuracy(scored, dataset.validation))} % of {len(dataset.validation)} validation images\n")
    rows = []
    for rate in RATES:
        for threshold in THRESHOLDS:
            plan = replace(params.prune, rate=rate, threshold=cast(Any, threshold))
            keep = choose_cut(scores(scored), plan, scored.head_dims()).keep
            model = slim(scored, keep)
            start = time.perf_counter()
            fitted = corrected(model, scored, images)
            seconds = time.perf_counter() - start
            models = [model, fitted]
            if with_training:
                models += [finetuned(m, dense, dataset, params) for m in (model, fitted)]
            rows.append(
                (
                    f"{rate:g}",
                    threshold,
                    *(percent(accuracy(m, dataset.validation)) for m in models),
                    f"{seconds:.1f}",
                    count(parameters(model.spec), parameters(dense.spec)),
                    count(macs(model.spec), macs(dense.spec)),
                    f"{time_ratio(model, dense, dataset.validation.images[:BATCH]):.2f}",
                )
            )
            print(*rows[-1], file=sys.stderr)
    trained = ("cut, fine-tuned", "corrected, fine-tuned") if with_training else ()
    header = ("rate", "threshold", "cut alone", "corrected", *trained, "seconds", "parameters", "MACs", "time")
    return markdown_table(header, rows)


@torch.no_grad()
def time_ratio(model: Model, dense: Model, batch: Tensor) -> float:
    """Return the time of a forward pass over that of the dense model."""
    return ratios([partial(dense, batch), partial(model, batch)])[1]


@torch.no_grad()
def heads_table() -> str:
    """Return the time of one attention over that of the unpruned one, 192 dims, 65 tokens, by dims left."""
    rows = []
    x = torch.randn(BATCH, 65, 192)
    whole = attention((32,) * 6)
    for left in LEFT_IN_HEADS:
        forms = (tuple(sorted(left)), (max(left),) * len(left), (round(sum(left) / len(left)),) * len(left))
        modules = [whole, *map(attention, forms)]
        _, *found = ratios([partial(module, x, None) for module in modules])
        rows.append((" ".join(map(str, left)), *(f"{ratio:.2f}" for ratio in found)))
    return markdown_table(("dims left in six heads of 32", "grouped", "padded", "equal"), rows)


def attention(dims: tuple[int, ...]) -> Attention:
    """Return an attention in evaluation mode whose heads have these dims."""
    heads = tuple(HeadSpec(d, d) for d in dims)
    shape = {"dim": 192, "inputs": None, "scale": 32**-0.5, "dropout": 0.0}
    return Attention(**shape, heads=heads, query_bias=False, scored=()).eval()


def main() -> None:
    """Print both tables."""
    print(machine())
    print(pruning_table("finetune" in sys.argv[1:]))
    print(heads_table(), end="")


if __name__ == "__main__":
    run_stage(main)
