"""How fast a training step is, against the plain form of the paper's code.

    python -m benchmarks.training [--cpu]

The plain form is that of the paper's code in float32: every block is computed for every token, and the optimizer
updates one tensor after the other. Ours is `vtp.training` with the model of params.yaml, in float32, in bfloat16
autocast, and compiled. Times do not depend on the data, which are random.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.timing import conditions
from benchmarks.untrained_models import pixels, spec_of, untrained
from stages.shared import run_stage
from vtp.models.vit.params import ViTParams
from vtp.params import Params, load_params
from vtp.report import markdown_table
from vtp.training.loop import Recipe, loss_of
from vtp.training.optimizer import Optimizer, make_optimizer
from vtp.training.precision import autocast

STEPS = 8


class PlainBlock(nn.Module):
    """A pre-norm block in the form of the paper's code."""

    def __init__(self, dim: int, heads: int, head_dim: int, hidden: int) -> None:
        super().__init__()
        self.heads, self.scale, inner = heads, head_dim**-0.5, heads * head_dim
        self.norms = nn.ModuleList([nn.LayerNorm(dim), nn.LayerNorm(dim)])
        self.query, self.key, self.value = (nn.Linear(dim, inner, bias=False) for _ in range(3))
        self.output = nn.Linear(inner, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

    def forward(self, x_BND: Tensor) -> Tensor:
        """Map (B, N, D) to (B, N, D)."""
        x = self.norms[0](x_BND)
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        attended = torch.matmul(torch.matmul(q, k.transpose(-1, -2)).mul(self.scale).softmax(-1), v)
        x = x_BND + self.output(attended.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norms[1](x))  # type: ignore[no-any-return]


class PlainTransformer(nn.Module):
    """Patches by a convolution, class token, blocks, norm, head; pixels are normalised before."""

    def __init__(self, params: ViTParams, image_size: int) -> None:
        super().__init__()
        self.embedding = nn.Conv2d(3, params.dim, params.patch_size, params.patch_size)
        self.token = nn.Parameter(torch.zeros(1, 1, params.dim))
        self.positions = nn.Parameter(torch.zeros(1, 1 + (image_size // params.patch_size) ** 2, params.dim))
        sizes = (params.dim, params.heads, params.head_dim, params.mlp_dim)
        self.blocks = nn.Sequential(*(PlainBlock(*sizes) for _ in range(params.depth)))
        self.head = nn.Sequential(nn.LayerNorm(params.dim), nn.Linear(params.dim, 10))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes) of uint8 images (B, C, H, W)."""
        patches = self.embedding((images.float() - 128) / 64).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(images), -1, -1), patches], 1) + self.positions
        return self.head(self.blocks(tokens)[:, 0])  # type: ignore[no-any-return]


def training_step(
    params: Params, images: Tensor, labels: Tensor, precision: str, compiled: bool
) -> Callable[[], None]:
    """Return a step of `vtp.training` with the model of `params`: forward, backward and update."""
    recipe = Recipe("baseline", 0, 1, params.baseline.learning_rate, params.training)
    model = untrained(spec_of(params)).train()
    student = torch.compile(model, dynamic=False) if compiled else model
    optimizer = make_optimizer(model, recipe.shared)

    def step() -> None:
        with autocast(images.device, precision):
            loss = loss_of(student, images, labels, recipe, None)
        update(loss, model, optimizer, params.training.gradient_clip)

    return step


def update(loss: Tensor, model: nn.Module, optimizer: torch.optim.Optimizer | Optimizer, largest: float) -> None:
    """Take the backward pass and a step, with a gradient whose norm is at most `largest`."""
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), largest)
    optimizer.step()


def random_batch(params: Params) -> tuple[Tensor, Tensor]:
    """Return images (batch, 3, H, W), uint8, and labels (batch,) of ten classes, both random."""
    count = params.training.batch_size
    return pixels(spec_of(params), count), torch.randint(10, (count,))


def main() -> None:
    """Print images a second of each way, and how many times those of the plain form they are."""
    parser = argparse.ArgumentParser(prog="benchmarks.training")
    parser.add_argument("--cpu", action="store_true", help="count CPU seconds")
    clock = time.process_time if parser.parse_args().cpu else time.perf_counter
    params = load_params(Path("params.yaml"))
    torch.set_num_threads(params.machine.threads)
    images, labels = random_batch(params)
    plain = PlainTransformer(params.model, params.data.image_size)
    ours = partial(training_step, params, images, labels)
    optimizer = torch.optim.AdamW(plain.parameters(), foreach=False)
    smoothing, largest = params.training.label_smoothing, params.training.gradient_clip
    ways: dict[str, Callable[[], None]] = {
        "plain form, float32": lambda: update(
            F.cross_entropy(plain(images), labels, label_smoothing=smoothing), plain, optimizer, largest
        ),
        "float32": ours("float32", False),
        "bfloat16": ours("bfloat16", False),
        "float32, compiled": ours("float32", True),
        "bfloat16, compiled": ours("bfloat16", True),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(2 + STEPS):
        for name, step in ways.items():
            start = clock()
            step()
            if turn >= 2:
                seconds[name].append(clock() - start)
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    base = medians["plain form, float32"]
    rows = [(name, f"{len(images) / found:,.0f}", f"{base / found:.2f}") for name, found in medians.items()]
    counted = ", CPU time" if clock is time.process_time else ""
    print(f"{conditions(params)}; steps of {len(images)} images{counted}\n")
    print(markdown_table(("step", "images/s", "times the plain form"), rows), end="")


if __name__ == "__main__":
    run_stage(main)
