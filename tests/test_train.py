"""Training: it learns, is the same every time, goes on after an interruption, and says where it diverged."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.models import both
from tests.training import (
    RECIPE,
    SHARED,
    TRAINING,
    VALIDATION,
    Interrupted,
    Listener,
    run,
    same,
    scored,
    tiny,
)
from vtp.errors import UserError
from vtp.measure import accuracy
from vtp.models import Model
from vtp.training.l1 import L1
from vtp.training.loop import train


@both
def test_training_learns_what_can_be_learnt(family: str, tmp_path: Path) -> None:
    model = tiny(family, dropout=0.0)
    recipe = replace(RECIPE, epochs=12, learning_rate=0.02, shared=replace(SHARED, crop_padding=0))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trained, history = train(model, TRAINING, VALIDATION, recipe, resume=tmp_path / "r", watcher=Listener())
    assert history[2]["loss"] < history[1]["loss"] < 0.8  # a zero head starts at log 2
    assert [record["epoch"] for record in history] == list(range(13))
    assert history[0]["validation_loss"] == pytest.approx(math.log(2))
    assert history[12]["validation_loss"] < 0.2
    assert accuracy(trained, VALIDATION) == 1.0
    assert not trained.training
    assert same(before, model.state_dict())  # the model given stays as it was


CASES: dict[str, tuple[Callable[[], Model], dict[str, Any], dict[str, Any], bool]] = {
    "adamw": (tiny, {}, {"flip": True}, False),
    "adam": (tiny, {"keep_best": False}, {"optimizer": "adam"}, False),
    "muon": (scored, {"l1": L1(0.1, True)}, {"optimizer": "muon"}, False),
    "muon, convolutions": (lambda: tiny("resnet18"), {}, {"optimizer": "muon"}, False),
    "resnet": (lambda: tiny("resnet18"), {}, {}, False),
    "proximal": (scored, {"l1": L1(0.1, True), "keep_best": False}, {}, False),
    "subgradient": (scored, {"l1": L1(0.1, False)}, {"optimizer": "adam"}, False),
    "teacher": (tiny, {"distillation": 0.7, "temperature": 3.0}, {}, True),
    "augmentation": (tiny, {}, {"trivial_augment": 0.8, "erasing": 0.5}, False),
    "mixing": (tiny, {"distillation": 0.5}, {"mixup": 0.8, "cutmix": 1.0}, True),
    "average": (lambda: tiny("resnet18"), {}, {"ema": 0.9}, False),
    "stochastic depth": (lambda: tiny(stochastic_depth=0.5), {"keep_best": False}, {}, False),
    "patch dropout": (lambda: tiny(patch_dropout=0.5), {"keep_best": False}, {}, False),
}


@pytest.mark.parametrize("name", CASES)
def test_a_run_is_repeatable_and_an_interrupted_one_ends_the_same(name: str, tmp_path: Path) -> None:
    make, changes, shared, has_teacher = CASES[name]
    recipe = replace(RECIPE, shared=replace(SHARED, **shared), **changes)
    teacher = tiny(seed=9) if has_teacher else None
    expected, history = run(make(), recipe, tmp_path / "undisturbed", teacher=teacher)
    torch.manual_seed(77)  # nothing may come from what ran before
    again, same_history = run(make(), recipe, tmp_path / "again", teacher=teacher)
    assert same(expected, again)
    assert history == same_history
    for epoch in range(1, recipe.epochs + 1):
        state, listener = tmp_path / f"interrupted {epoch}", Listener()
        with pytest.raises(Interrupted):
            run(make(), recipe, state, teacher=teacher, watcher=Listener(epoch))
        torch.manual_seed(epoch)
        found, found_history = run(make(), recipe, state, teacher=teacher, watcher=listener)
        assert listener.epochs == list(range(epoch + 1, recipe.epochs + 1))
        assert same(expected, found)
        assert history == found_history


def test_a_training_that_only_harms_gives_the_model_back(tmp_path: Path) -> None:
    good, _ = train(
        tiny(dropout=0.0),
        TRAINING,
        VALIDATION,
        replace(RECIPE, epochs=12, learning_rate=0.02),
        resume=tmp_path / "good",
        watcher=Listener(),
    )
    harmful = replace(RECIPE, learning_rate=0.9, shared=replace(SHARED, gradient_clip=1e6, warmup_fraction=0.0))
    found, history = run(good, harmful, tmp_path / "harm")
    assert max(record["validation_accuracy"] for record in history[1:]) < history[0]["validation_accuracy"]
    assert same(found, good.state_dict())


def test_another_seed_gives_another_model(tmp_path: Path) -> None:
    first, _ = run(tiny(), RECIPE, tmp_path / "first")
    second, _ = run(tiny(), replace(RECIPE, seed=6), tmp_path / "second")
    assert not same(first, second)


class Teacher(torch.nn.Module):
    """Answers some batches as asked, then with `last`: logits, or an exception."""

    def __init__(self, answers: int, last: Tensor | Exception) -> None:
        super().__init__()
        self.answers, self.last = answers, last

    def forward(self, images: Tensor) -> Tensor:
        self.answers -= 1
        if self.answers >= 0:
            return torch.zeros(len(images), 2)
        if isinstance(self.last, Exception):
            raise self.last
        return self.last.expand(len(images), 2)


@pytest.mark.parametrize("damage", ["empty", "short", "bit"])
def test_a_damaged_state_is_left_aside_with_a_word(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected, history = run(tiny(), RECIPE, tmp_path / "undisturbed")
    state = tmp_path / "interrupted"
    with pytest.raises(Interrupted):
        run(tiny(), RECIPE, state, watcher=Listener(1))
    content = bytearray(state.read_bytes())
    content[-100] ^= 1
    state.write_bytes({"empty": b"", "short": content[:1000], "bit": content}[damage])
    found, found_history = run(tiny(), RECIPE, state)
    assert capsys.readouterr().err == f"{state}: truncated or altered; the training starts again\n"
    assert same(expected, found)
    assert history == found_history


def test_a_run_interrupted_within_an_epoch_does_that_epoch_again(tmp_path: Path) -> None:
    recipe = replace(RECIPE, distillation=0.5)
    expected, history = run(tiny(), recipe, tmp_path / "a", teacher=Teacher(99, Interrupted()))
    with pytest.raises(Interrupted):
        run(tiny(), recipe, tmp_path / "b", teacher=Teacher(5, Interrupted()))  # epoch 2 of 3 steps
    found, found_history = run(tiny(), recipe, tmp_path / "b", teacher=Teacher(99, Interrupted()))
    assert same(expected, found)
    assert history == found_history


@pytest.mark.parametrize("logit", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_one_sentence_and_leaves_the_last_good_epoch(
    logit: float, tmp_path: Path
) -> None:
    recipe = replace(RECIPE, distillation=0.5, stage="finetune")
    with pytest.raises(UserError) as caught:
        run(tiny(), recipe, tmp_path / "bad", teacher=Teacher(4, torch.tensor([logit, 0.0])))
    message = str(caught.value)
    assert message.startswith("finetune: the loss is nan at epoch 2, step 2; try ")
    assert "finetune.learning_rate below 0.01" in message
    assert "training.precision: float32" in message
    assert "\n" not in message
    with pytest.raises(Interrupted):
        run(tiny(), recipe, tmp_path / "good", teacher=Teacher(99, Interrupted()), watcher=Listener(1))
    assert (tmp_path / "bad").read_bytes() == (tmp_path / "good").read_bytes()


def test_a_diverging_first_epoch_leaves_no_state(tmp_path: Path) -> None:
    recipe = replace(RECIPE, learning_rate=1e30, shared=replace(SHARED, gradient_clip=1e30))
    with pytest.raises(UserError, match=r"^baseline: the loss is (nan|inf) at epoch 1, step [23]; try"):
        run(tiny(), recipe, tmp_path / "state")
    assert list(tmp_path.iterdir()) == []
