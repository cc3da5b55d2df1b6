"""What an epoch of training does with its recipe: the order, what is mixed, clipped, averaged and left out."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.models import random_model
from tests.training import RECIPE, SHARED, TRAINING, VALIDATION, Listener, scored, tiny
from vtp.measure import accuracy_and_loss
from vtp.models import Model
from vtp.scores import scores
from vtp.training.average import Average
from vtp.training.l1 import L1
from vtp.training.loop import train, train_epoch
from vtp.training.optimizer import make_optimizer


def given_in(epochs: Iterable[int], model: Model | None = None, **changes: Any) -> list[Tensor]:
    """The images that a model is given in these epochs of two, of one batch each; its weights change in place."""
    model = model or tiny(dropout=0.0)
    recipe = replace(RECIPE, epochs=2, shared=replace(SHARED, batch_size=100, **changes))
    given: list[Tensor] = []
    model.train().register_forward_pre_hook(lambda _, inputs: given.append(inputs[0].clone()))
    optimizer = make_optimizer(model, recipe.shared)
    for epoch in epochs:
        train_epoch(model, TRAINING, optimizer, recipe, epoch, Listener())
    return given


def test_every_epoch_has_all_images_in_an_order_of_its_own() -> None:
    first, second = given_in((0, 1), crop_padding=0)
    assert not torch.equal(first, second)
    assert sorted(first.flatten(1).tolist()) == sorted(second.flatten(1).tolist())


def test_every_epoch_has_crops_of_its_own() -> None:
    first, second = given_in((0, 1), crop_padding=1)
    assert sorted(first.flatten(1).tolist()) != sorted(second.flatten(1).tolist())


@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
def test_what_is_mixed_is_what_the_model_is_given(mix: str) -> None:
    (mixed,) = given_in((0,), crop_padding=0, **{mix: 1.0})
    plain = {tuple(image) for image in TRAINING.images.flatten(1).double().tolist()}
    assert any(tuple(image) not in plain for image in mixed.flatten(1).double().tolist())


def test_the_last_epoch_sees_every_patch() -> None:
    model = tiny(patch_dropout=0.5)
    tokens: list[int] = []
    dropout: Any = model.patch_dropout
    dropout.register_forward_hook(lambda _, __, output: tokens.append(output.shape[1]))
    given_in((0, 1), model)
    assert tokens == [3, 5]  # the class token, and two or four patches


def test_a_gradient_is_no_longer_than_the_clip() -> None:
    model = tiny(dropout=0.0)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    given_in((0,), model, gradient_clip=1e-12, weight_decay=0.0)
    changes = [(parameter.detach() - before[name]).abs().max() for name, parameter in model.named_parameters()]
    assert 0 < max(changes) < 1e-3 * RECIPE.learning_rate


def test_a_penalty_is_not_clipped() -> None:
    model = scored().train()
    recipe = replace(RECIPE, l1=L1(0.5, False), shared=replace(SHARED, gradient_clip=1e-6, batch_size=100))
    train_epoch(model, TRAINING, make_optimizer(model, recipe.shared), recipe, 0, Listener())
    for score in scores(model).values():
        torch.testing.assert_close(score.grad, torch.full_like(score, 0.5), rtol=0, atol=1e-5)


def test_a_proximal_step_shrinks_by_the_rate_over_the_root_of_the_second_moment() -> None:
    model = scored()
    optimizer = make_optimizer(model, SHARED)
    for group in optimizer.param_groups:
        group["lr"] = 0.01
    score = next(iter(scores(model).values()))
    score.grad = torch.full_like(score, 0.5)
    optimizer.step()
    L1(0.1, True).after_step(score, optimizer)
    expected = torch.full_like(score.detach(), 1 - 0.01 - 0.01 * 0.1 / 0.5)
    torch.testing.assert_close(score.detach(), expected)


def test_the_steps_of_an_average_are_counted_over_all_epochs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    monkeypatch.setattr(Average, "update", lambda self, step: steps.append(step))
    recipe = replace(RECIPE, epochs=2, shared=replace(SHARED, ema=0.9))
    train(tiny(), TRAINING, VALIDATION, recipe, resume=tmp_path / "state", watcher=Listener())
    assert steps == [1, 2, 3, 4, 5, 6]


def test_records_are_of_the_average_that_comes_back(tmp_path: Path) -> None:
    recipe = replace(RECIPE, keep_best=False, shared=replace(SHARED, ema=0.9))
    model, history = train(tiny(), TRAINING, VALIDATION, recipe, resume=tmp_path / "state", watcher=Listener())
    last = history[-1]
    assert accuracy_and_loss(model, VALIDATION) == (last["validation_accuracy"], last["validation_loss"])


def test_adam_decays_through_the_gradient_and_adamw_beside_it() -> None:
    shares: dict[str, Tensor] = {}
    for name in ("adam", "adamw"):
        model: Any = random_model(tiny().spec, 0, torch.float32)
        optimizer = make_optimizer(model, replace(SHARED, optimizer=name, weight_decay=0.1))
        for group in optimizer.param_groups:
            group["lr"] = 1e-3
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        weight = model.blocks[0].mlp.up.weight
        before = weight.detach().clone()
        optimizer.step()
        shares[name] = (before - weight.detach()) / before
    torch.testing.assert_close(shares["adamw"], torch.full_like(shares["adamw"], 1e-4), rtol=0.01, atol=1e-5)
    assert shares["adam"].std() > 1e-4  # Adam's steps are equal whatever the weight
