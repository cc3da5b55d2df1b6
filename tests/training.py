"""What the tests of training share: tiny models, two classes that a line separates, and one recipe."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.models import small_spec
from vtp.data.batches import normalisation
from vtp.data.dataset import Split
from vtp.models import Model, initialised
from vtp.models.vit import BlockSpec, HeadSpec
from vtp.params import TrainingParams
from vtp.scores import with_scores
from vtp.train import Recipe, train

SHARED = TrainingParams(
    batch_size=16,
    optimizer="adamw",
    weight_decay=0.05,
    warmup_fraction=0.2,
    gradient_clip=1.0,
    label_smoothing=0.1,
    crop_padding=1,
    flip=False,
    precision="float32",
    device="cpu",
    threads=1,
)
RECIPE = Recipe("baseline", seed=5, epochs=3, learning_rate=0.01, shared=SHARED)


def bright_halves(count: int, seed: int) -> Split:
    """Noise with the upper or the lower half brighter: two classes that a line separates."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    images = torch.randint(0, 100, (count, 1, 4, 4), generator=generator)
    images[labels == 0, :, :2] += 120
    images[labels == 1, :, 2:] += 120
    return Split(images.to(torch.uint8), labels)


TRAINING, VALIDATION = bright_halves(40, 1), bright_halves(30, 2)


def tiny(family: str = "vit", seed: int = 0, dropout: float = 0.3) -> Model:
    """An untrained model of four-pixel images."""
    common: dict[str, Any] = {"channels": 1, "classes": 2, "image_size": 4}
    if family == "vit":
        block = BlockSpec((HeadSpec(4, 4),) * 2, 8)
        common |= {"patch_size": 2, "dim": 8, "head_dim": 4, "blocks": (block, block), "dropout": dropout}
    return initialised(small_spec(family, **common), seed, *normalisation(TRAINING))


def scored(seed: int = 0) -> Model:
    return with_scores(tiny(seed=seed), ("attention.inner", "mlp.hidden"))


def quiet(record: dict[str, float], epochs: int) -> None:
    """A report to nobody."""


def run(model: Model, recipe: Recipe, resume: Path, **options: Any) -> tuple[dict[str, Tensor], Any]:
    trained, history = train(
        model, TRAINING, VALIDATION, recipe, resume=resume, **{"report": quiet, "teacher": None} | options
    )
    return trained.state_dict(), history


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
