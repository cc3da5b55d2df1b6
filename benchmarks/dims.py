"""What dims that go save in time: a model with fewer dims a head or in its MLPs, over the whole one.

    PYTHONPATH=. python benchmarks/dims.py

in a folder with params.yaml of a vision transformer, untrained and for images of three channels and ten classes.
Medians of models that take turns. `fused` is PyTorch's attention in place of `attend`, where the dims of q and k
are not those of v. The machine must be idle.
"""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.latency import BATCHES, inference_form
from benchmarks.timing import Run, conditions, medians
from benchmarks.untrained_models import pixels, spec_of, untrained
from stages.shared import run_stage
from vtp.models import Model
from vtp.models.vit.params import ViTParams
from vtp.models.vit.spec import BlockSpec, HeadSpec, ViTSpec
from vtp.params import load_params
from vtp.report import markdown_table

PARTS = (1, 31 / 32, 7 / 8, 3 / 4, 1 / 2)


def main() -> None:
    """Print a row for each number of dims and a column for each batch."""
    params = load_params(Path("params.yaml"))
    torch.set_num_threads(params.machine.threads)
    spec = cast(ViTSpec, spec_of(params))
    runs: dict[str, Run] = {}
    for qk, v, hidden in dict.fromkeys(sizes(cast(ViTParams, params.model))):
        name = f"{qk}, {v}, {hidden}"
        runs[name] = inference_form(model_of(spec, qk, v, hidden))
        if qk != v:
            runs[f"{name}, fused"] = with_fused_attention(runs[name])
    times = [medians(runs, pixels(spec, batch), time.perf_counter) for batch in BATCHES]
    whole = next(iter(runs))
    rows = [(name, *(f"{found[name] / found[whole]:.2f}" for found in times)) for name in runs]
    print(f"{conditions(params)}\n")
    print(markdown_table(("q and k, v, hidden", *(f"batch {batch}" for batch in BATCHES)), rows), end="")


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
    return untrained(replace(spec, blocks=blocks))


def with_fused_attention(run: Run) -> Run:
    """Return the run with PyTorch's attention in place of the project's."""

    def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, scale=1.0)

    def patched(images: Tensor) -> object:
        with patch("vtp.inference.vit.attend", fused):
            return run(images)

    return patched


if __name__ == "__main__":
    run_stage(main)
