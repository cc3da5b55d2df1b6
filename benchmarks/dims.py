"""What dims that go save in time: the small CIFAR model with fewer dims a head or in its MLPs, over the whole one.

    PYTHONPATH=. python benchmarks/dims.py

in a folder with params.yaml of a vision transformer, untrained and for images of three channels and ten classes.
Models take turns, and of each the fastest run counts. `fused` is PyTorch's attention in place of `attend`, where
the dims of q and k are not those of v. The machine must be idle.
"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import cast
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.latency import BATCHES, conditions
from vtp.inference import for_inference
from vtp.latency import latency
from vtp.models import Model, dense_spec, initialised
from vtp.models.vit.params import ViTParams
from vtp.models.vit.spec import BlockSpec, HeadSpec, ViTSpec
from vtp.params import load_params
from vtp.report import markdown_table

TURNS, RUNS, SECONDS = 5, 5, 0.3
PARTS = (1, 31 / 32, 7 / 8, 3 / 4, 1 / 2)


def main() -> None:
    """Print a row for each number of dims and a column for each batch."""
    params = load_params(Path("params.yaml"))
    torch.set_num_threads(params.machine.threads)
    spec = cast(ViTSpec, dense_spec(params.model, image_size=params.data.image_size, channels=3, classes=10))
    cases = dict.fromkeys(sizes(cast(ViTParams, params.model)))
    forms = {case: for_inference(model_of(spec, *case)) for case in cases}
    found: dict[tuple[object, ...], float] = defaultdict(lambda: float("inf"))
    for batch in BATCHES:
        for _ in range(TURNS):
            for (qk, v, hidden), form in forms.items():
                for fused in (False, True) if qk != v else (False,):
                    with fused_attention(fused):
                        low = latency(form, batch, RUNS, SECONDS).low
                    key = (qk, v, hidden, batch, fused)
                    found[key] = min(found[key], low)
    rows = []
    for qk, v, hidden in cases:
        for fused in (False, True) if qk != v else (False,):
            times = (
                found[qk, v, hidden, batch, fused] / found[*next(iter(cases)), batch, False] for batch in BATCHES
            )
            rows.append(
                (str(qk), str(v), str(hidden), "fused" if fused else "", *(f"{time:.2f}" for time in times))
            )
    print(f"{conditions(params)}\n")
    print(markdown_table(("q, k", "v", "hidden", "", *(f"batch {batch}" for batch in BATCHES)), rows), end="")


def sizes(model: ViTParams) -> Iterator[tuple[int, int, int]]:
    """Yield dims of q and k, of v, and of the MLP: all, and parts of each."""
    dims, hidden = model.head_dim, model.mlp_dim
    for part in PARTS:
        yield round(part * dims), round(part * dims), hidden
    for part in PARTS:
        yield dims, round(part * dims), hidden
    for part in PARTS:
        yield dims, dims, round(part * hidden)
    yield dims, dims, hidden - 1


def model_of(spec: ViTSpec, qk: int, v: int, hidden: int) -> Model:
    """Return a model whose heads and MLPs all have these dims."""
    blocks = tuple(BlockSpec((HeadSpec(qk, v),) * len(block.heads), hidden) for block in spec.blocks)
    return initialised(replace(spec, blocks=blocks), 0, (128.0,) * 3, (64.0,) * 3)


@contextmanager
def fused_attention(on: bool) -> Iterator[None]:
    """Have PyTorch's attention in place of the project's, if `on`."""

    def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, scale=1.0)

    if not on:
        yield
        return
    with patch("vtp.inference.vit.attend", fused):
        yield


if __name__ == "__main__":
    main()
