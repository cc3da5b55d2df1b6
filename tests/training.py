"""What the tests of training share: tiny models, two classes that a line separates, and one recipe."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.models import small_spec
from vtp.data.batches import normalisation
from vtp.data.dataset import Split
from vtp.models import Model, initialised
from vtp.models.vit.spec import BlockSpec, HeadSpec
from vtp.params import TrainingParams
from vtp.scores import with_scores
from vtp.training.loop import Recipe, Watcher, train

SHARED = TrainingParams(
    batch_size=16,
    optimizer="adamw",
    weight_decay=0.05,
    warmup_fraction=0.2,
    gradient_clip=1.0,
    label_smoothing=0.1,
    crop_padding=1,
    flip=False,
    trivial_augment=0.0,
    erasing=0.0,
    mixup=0.0,
    cutmix=0.0,
    ema=0.0,
    precision="float32",
    compile=False,
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


def tiny(family: str = "vit", seed: int = 0, dropout: float = 0.3, **changes: Any) -> Model:
    """An untrained model of four-pixel images."""
    common: dict[str, Any] = {"channels": 1, "classes": 2, "image_size": 4}
    if family == "vit":
        block = BlockSpec((HeadSpec(4, 4),) * 2, 8)
        common |= {"patch_size": 2, "dim": 8, "head_dim": 4, "blocks": (block, block), "dropout": dropout}
    return initialised(small_spec(family, **common, **changes), seed, *normalisation(TRAINING))


def scored(seed: int = 0) -> Model:
    return with_scores(tiny(seed=seed), ("attention.inner", "mlp.hidden"))


class Interrupted(Exception):
    """As a kill between two epochs."""


@dataclass
class Listener:
    """A watcher that remembers the epochs, and interrupts after `last`."""

    last: int | None = None
    epochs: list[int] = field(default_factory=list)

    def step(self, images: int) -> None:
        pass

    def epoch(self, record: dict[str, float]) -> None:
        self.epochs.append(int(record["epoch"]))
        if record["epoch"] == self.last:
            raise Interrupted


def run(
    model: Model,
    recipe: Recipe,
    resume: Path,
    *,
    watcher: Watcher | None = None,
    teacher: Any = None,
) -> tuple[dict[str, Tensor], Any]:
    trained, history = train(
        model, TRAINING, VALIDATION, recipe, resume=resume, watcher=watcher or Listener(), teacher=teacher
    )
    return trained.state_dict(), history


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
