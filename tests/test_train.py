"""Training: it learns, is the same every time, goes on after an interruption, and says where it diverged."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from tests.models import random_model, small_spec
from vtp.data.batches import normalisation
from vtp.data.dataset import Split
from vtp.errors import UserError
from vtp.measure import accuracy
from vtp.models import Model, initialised
from vtp.models.vit import BlockSpec, HeadSpec
from vtp.params import TrainingParams
from vtp.resume import Progress
from vtp.scores import L1, scores, with_scores
from vtp.train import Recipe, choose_device, learning_rate, loss_of, make_optimizer, train, train_epoch

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


@pytest.mark.parametrize("family", ["vit", "resnet18"])
def test_training_learns_what_can_be_learnt(family: str, tmp_path: Path) -> None:
    model = tiny(family, dropout=0.0)
    recipe = replace(RECIPE, epochs=12, learning_rate=0.02, shared=replace(SHARED, crop_padding=0))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trained, history = train(model, TRAINING, VALIDATION, recipe, resume=tmp_path / "r", report=quiet)
    assert history[1]["loss"] < history[0]["loss"] < 0.8  # a zero head starts at log 2
    assert [record["epoch"] for record in history] == list(range(1, 13))
    assert accuracy(trained, VALIDATION) == 1.0
    assert not trained.training
    assert same(before, model.state_dict())  # the model given stays as it was


class Interrupted(Exception):
    """As a kill between two epochs."""


def interrupted_after(epoch: int) -> Callable[[dict[str, float], int], None]:
    def report(record: dict[str, float], epochs: int) -> None:
        if record["epoch"] == epoch:
            raise Interrupted

    return report


CASES: dict[str, tuple[Callable[[], Model], dict[str, Any], dict[str, Any], bool]] = {
    "adamw": (tiny, {}, {"flip": True}, False),
    "adam": (tiny, {"keep_best": False}, {"optimizer": "adam"}, False),
    "resnet": (lambda: tiny("resnet18"), {}, {}, False),
    "proximal": (scored, {"l1": L1(0.1, True), "keep_best": False}, {}, False),
    "subgradient": (scored, {"l1": L1(0.1, False)}, {"optimizer": "adam"}, False),
    "teacher": (tiny, {"distillation": 0.7, "temperature": 3.0}, {}, True),
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
        state, reported = tmp_path / f"interrupted {epoch}", []
        with pytest.raises(Interrupted):
            run(make(), recipe, state, teacher=teacher, report=interrupted_after(epoch))
        torch.manual_seed(epoch)
        options = {"teacher": teacher, "report": lambda record, _, seen=reported: seen.append(record["epoch"])}
        found, found_history = run(make(), recipe, state, **options)
        assert reported == list(range(epoch + 1, recipe.epochs + 1))
        assert same(expected, found)
        assert history == found_history


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
        run(tiny(), recipe, tmp_path / "good", teacher=Teacher(99, Interrupted()), report=interrupted_after(1))
    assert (tmp_path / "bad").read_bytes() == (tmp_path / "good").read_bytes()


def test_a_diverging_first_epoch_leaves_no_state(tmp_path: Path) -> None:
    recipe = replace(RECIPE, learning_rate=1e30, shared=replace(SHARED, gradient_clip=1e30))
    with pytest.raises(UserError, match=r"^baseline: the loss is (nan|inf) at epoch 1, step [23]; try"):
        run(tiny(), recipe, tmp_path / "state")
    assert list(tmp_path.iterdir()) == []


def test_proximal_steps_give_exact_zeros_and_subgradients_none(tmp_path: Path) -> None:
    zeros = {}
    for proximal in (True, False):
        recipe = replace(RECIPE, epochs=8, l1=L1(0.5, proximal), keep_best=False, learning_rate=0.03)
        trained, _ = train(scored(), TRAINING, VALIDATION, recipe, resume=tmp_path / str(proximal), report=quiet)
        values = torch.cat(list(scores(trained).values()))
        zeros[proximal] = int((values == 0).sum())
        assert values.abs().mean() < 0.7  # either way they shrink, from one
    assert zeros[True] > 0
    assert zeros[False] == 0


@pytest.mark.parametrize("optimizer", ["adamw", "adam"])
def test_weight_decay_is_of_weight_matrices_alone(optimizer: str) -> None:
    after = []
    for decay in (0.0, 1.0):
        model = random_model(replace(scored().spec, dropout=0.0), seed=4, dtype=torch.float32)
        recipe = replace(RECIPE, shared=replace(SHARED, weight_decay=decay, batch_size=100, optimizer=optimizer))
        train_epoch(model, TRAINING, make_optimizer(model, recipe), recipe, 0, None)  # a single step
        after.append(dict(model.named_parameters()))
    differing = {name for name in after[0] if not torch.equal(after[0][name], after[1][name])}
    modules = dict(model.named_modules())
    linear = {name for name in after[0] if isinstance(modules[name.rpartition(".")[0]], torch.nn.Linear)}
    assert differing == {name for name in linear if name.endswith("weight")}


@given(st.integers(1, 200), st.floats(0, 0.9), st.floats(1e-8, 10), st.lists(st.floats(0, 1), min_size=2))
def test_the_learning_rate_warms_up_and_falls_to_zero(
    epochs: int, warmup: float, peak: float, places: list[float]
) -> None:
    recipe = replace(RECIPE, epochs=epochs, learning_rate=peak, shared=replace(SHARED, warmup_fraction=warmup))
    assert learning_rate(recipe, warmup * epochs) == pytest.approx(peak)
    assert learning_rate(recipe, epochs) == pytest.approx(0, abs=1e-12 * peak)
    places.sort()
    rates = [learning_rate(recipe, place * epochs) / peak for place in places]
    for (place, rate), (following, next_rate) in zip(
        zip(places, rates, strict=True), list(zip(places, rates, strict=True))[1:], strict=False
    ):
        assert -1e-12 <= rate <= 1 + 1e-12
        if following < warmup:
            assert rate == pytest.approx(place / warmup)  # linear
        elif place > warmup:
            assert next_rate <= rate + 1e-12  # down
            assert rate - next_rate <= math.pi / 2 / (1 - warmup) * (following - place) + 1e-12  # without a jump


@settings(max_examples=25)
@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=8), st.booleans())
def test_the_best_epoch_is_kept_the_later_of_equals(accuracies: list[float], keep_best: bool) -> None:
    model = random_model(small_spec("vit"), seed=0)
    progress = Progress.start(model)
    for epoch, value in enumerate(accuracies):
        with torch.no_grad():
            model.class_token.fill_(epoch)  # type: ignore[operator, union-attr]
        progress = progress.after({"validation_accuracy": value}, model, keep_best)
    last = max(i for i, value in enumerate(accuracies) if not keep_best or value == max(accuracies))
    assert progress.best["class_token"].unique().tolist() == [last]
    assert progress.best_accuracy == accuracies[last]
    assert progress.epochs_done == len(accuracies)


@pytest.mark.parametrize("keep_best", [True, False])
def test_what_comes_back_has_the_accuracy_of_its_epoch(keep_best: bool, tmp_path: Path) -> None:
    recipe = replace(RECIPE, epochs=6, learning_rate=0.3, keep_best=keep_best)  # wild
    trained, history = train(tiny(), TRAINING, VALIDATION, recipe, resume=tmp_path / "r", report=quiet)
    reached = [record["validation_accuracy"] for record in history]
    assert accuracy(trained, VALIDATION) == (max(reached) if keep_best else reached[-1])


def test_a_student_that_equals_its_teacher_has_nothing_to_learn_from_it() -> None:
    model = random_model(tiny(dropout=0.0).spec, seed=1)
    recipe = replace(RECIPE, distillation=1.0, temperature=2.0)
    loss = loss_of(model, TRAINING.images, TRAINING.labels, recipe, model)
    assert loss.item() == pytest.approx(0, abs=1e-6)
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().max() < 1e-6 for p in model.parameters())


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_loss_mixes_labels_and_soft_targets(share: float) -> None:
    student, teacher = (random_model(tiny(dropout=0.0).spec, seed=seed) for seed in (1, 2))
    recipe = replace(RECIPE, distillation=share, temperature=2.5)
    with torch.no_grad():
        found = float(loss_of(student, TRAINING.images, TRAINING.labels, recipe, teacher))
        own, soft = student(TRAINING.images), teacher(TRAINING.images)
    labels = 0.9 * F.one_hot(TRAINING.labels, 2) + 0.1 / 2
    hard = float(-(labels * own.log_softmax(1)).sum(1).mean())
    p, q = (soft / 2.5).softmax(1), (own / 2.5).softmax(1)
    divergence = float((p * (p / q).log()).sum(1).mean()) * 2.5**2
    assert found == pytest.approx((1 - share) * hard + share * divergence, rel=1e-5)


def test_bfloat16_trains_float32_weights_to_about_the_same_loss() -> None:
    losses = {}
    for precision in ("float32", "bfloat16"):
        model = random_model(tiny(dropout=0.0).spec, seed=1, dtype=torch.float32)
        recipe = replace(RECIPE, shared=replace(SHARED, precision=precision, batch_size=100))
        losses[precision] = train_epoch(model, TRAINING, make_optimizer(model, recipe), recipe, 0, None)
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
        assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.05)
    assert losses["bfloat16"] != losses["float32"]


def test_the_device_is_chosen_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    for present in (True, False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda present=present: present)
        assert choose_device("auto").type == ("cuda" if present else "cpu")
        assert choose_device("cpu").type == "cpu"
    with pytest.raises(UserError, match=r"^params\.yaml: training\.device is 'cuda', but"):
        choose_device("cuda")
