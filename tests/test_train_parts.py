"""What training is made of: scores' steps, weight decay, learning rate, best epoch, loss, precision, device."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from tests.models import both, random_model, small_spec
from tests.training import RECIPE, SHARED, TRAINING, VALIDATION, Listener, run, same, scored, tiny
from vtp.data.batches import batch_count, batches
from vtp.data.dataset import Split
from vtp.devices import choose_device
from vtp.errors import UserError
from vtp.measure import accuracy
from vtp.models import Model
from vtp.models.spec import Factor
from vtp.scores import scores
from vtp.training.l1 import L1
from vtp.training.loop import learning_rate, loss_of, train, train_epoch
from vtp.training.optimizer import make_optimizer
from vtp.training.precision import autocast
from vtp.training.resume import Progress


def test_proximal_steps_give_exact_zeros_and_subgradients_none(tmp_path: Path) -> None:
    zeros = {}
    for proximal in (True, False):
        shared = replace(SHARED, ema=0.9)  # of which scores under a penalty have no part
        l1 = L1(0.5, proximal)
        recipe = replace(RECIPE, epochs=8, l1=l1, keep_best=False, learning_rate=0.03, shared=shared)
        trained, _ = train(
            scored(), TRAINING, VALIDATION, recipe, resume=tmp_path / str(proximal), watcher=Listener()
        )
        values = torch.cat(list(scores(trained).values()))
        zeros[proximal] = int((values == 0).sum())
        assert values.abs().mean() < 0.7  # either way they shrink, from one
    assert zeros[True] > 0
    assert zeros[False] == 0


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "muon"])
def test_weight_decay_is_of_weight_matrices_alone(optimizer: str) -> None:
    after = []
    for decay in (0.0, 1.0):
        factors = {
            f"blocks.0.mlp.{name}": Factor(3, True, form) for name, form in (("up", "pivot"), ("down", "pair"))
        }
        spec = replace(scored().spec, dropout=0.0, factors=factors)
        model = random_model(spec, seed=4, dtype=torch.float32)
        recipe = replace(RECIPE, shared=replace(SHARED, weight_decay=decay, batch_size=100, optimizer=optimizer))
        train_epoch(model, TRAINING, make_optimizer(model, recipe.shared), recipe, 0, Listener())  # a single step
        after.append(dict(model.named_parameters()))
    differing = {name for name in after[0] if not torch.equal(after[0][name], after[1][name])}
    modules = dict(model.named_modules())
    linear = {name for name in after[0] if isinstance(modules[name.rpartition(".")[0]], torch.nn.Linear)}
    assert differing == {name for name in linear if name.endswith("weight")}
    assert "blocks.0.mlp.up.left.mix" in after[0]


@both
def test_a_step_of_muon_moves_hidden_weights_alike_in_all_directions_and_others_as_adam_does(family: str) -> None:
    model = random_model(tiny(family, dropout=0.0).spec, seed=4, dtype=torch.float32)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    shared = replace(SHARED, weight_decay=0.0, batch_size=100, optimizer="muon", warmup_fraction=0.0)
    recipe = replace(RECIPE, epochs=1000, shared=shared)
    train_epoch(model, TRAINING, make_optimizer(model, shared), recipe, 0, Listener())  # a single step
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1 or not name.endswith(".weight"):
            continue
        change = (parameter.detach() - before[name]).flatten(1) / recipe.learning_rate
        if name.startswith("blocks."):
            sizes = torch.linalg.svdvals(change / (0.2 * max(change.shape) ** 0.5))
            assert 0.6 < sizes.max() < 1.3
            assert sizes.median() > 0.5
        else:
            assert change.abs().max() == pytest.approx(1, rel=1e-3)


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

    def at(epoch: int) -> Model:
        with torch.no_grad():
            model.class_token.fill_(epoch)  # type: ignore[operator, union-attr]
        return model

    progress = Progress.start({"validation_accuracy": accuracies[0]}, at(0))
    for epoch, value in enumerate(accuracies[1:], 1):
        progress = progress.after({"validation_accuracy": value}, at(epoch), keep_best)
    last = max(i for i, value in enumerate(accuracies) if not keep_best or value == max(accuracies))
    assert progress.best["class_token"].unique().tolist() == [last]
    assert progress.best_accuracy == accuracies[last]
    assert progress.epochs_done == len(accuracies) - 1


def unchanged(images: Tensor, generator: torch.Generator) -> Tensor:
    return images


@given(images=st.integers(1, 60), batch_size=st.integers(1, 20))
def test_an_epoch_has_every_image_once_in_the_batches_counted(images: int, batch_size: int) -> None:
    split = Split(torch.zeros(images, 1, 2, 2, dtype=torch.uint8), torch.arange(images))
    labels = [labels for _, labels in batches(split, batch_size, 0, 0, unchanged)]
    assert len(labels) == batch_count(images, batch_size)
    assert sorted(torch.cat(labels).tolist()) == list(range(images))
    assert min(images, batch_size, 2) <= min(map(len, labels)) <= max(map(len, labels)) <= batch_size + 1


@pytest.mark.parametrize("keep_best", [True, False])
def test_what_comes_back_has_the_accuracy_of_its_epoch(keep_best: bool, tmp_path: Path) -> None:
    recipe = replace(RECIPE, epochs=6, learning_rate=0.3, keep_best=keep_best)  # wild
    trained, history = train(tiny(), TRAINING, VALIDATION, recipe, resume=tmp_path / "r", watcher=Listener())
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
        optimizer = make_optimizer(model, recipe.shared)
        losses[precision] = train_epoch(model, TRAINING, optimizer, recipe, 0, Listener())
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
        assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.05)
    assert losses["bfloat16"] != losses["float32"]


def test_compiled_models_take_the_steps_and_the_plain_one_gets_their_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The compiler itself takes a minute; in its place is one that counts calls and changes nothing."""
    calls = []

    def compiled(model: Model, dynamic: bool) -> Callable[[Tensor], Tensor]:
        assert not dynamic
        return lambda images: calls.append(len(images)) or model(images)  # type: ignore[func-returns-value]

    monkeypatch.setattr(torch, "compile", compiled)
    recipe, teacher = replace(RECIPE, epochs=2, distillation=0.5), tiny(seed=9)
    expected, _ = run(tiny(), recipe, tmp_path / "a", teacher=teacher)
    recipe = replace(recipe, shared=replace(SHARED, compile=True))
    found, _ = run(tiny(), recipe, tmp_path / "b", teacher=teacher)
    assert calls == [16, 16, 16, 16, 8, 8] * 2  # student and teacher
    assert same(expected, found)


@pytest.mark.parametrize(("capability", "has_bfloat16"), [("AVX2", True), ("AVX512", True), ("AVX512", False)])
def test_auto_is_bfloat16_where_the_cpu_has_it_and_may_use_it(
    capability: str, has_bfloat16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": has_bfloat16})
    x = torch.ones(2, 2)
    found = {}
    for precision in ("auto", "float32", "bfloat16"):
        with autocast(x.device, precision):
            found[precision] = (x @ x).dtype
    expected = torch.bfloat16 if capability == "AVX512" and has_bfloat16 else torch.float32
    assert found == {"auto": expected, "float32": torch.float32, "bfloat16": torch.bfloat16}


def test_the_device_is_chosen_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    for present in (True, False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda present=present: present)
        assert choose_device("auto").type == ("cuda" if present else "cpu")
        assert choose_device("cpu").type == "cpu"
    with pytest.raises(UserError, match=r"^params\.yaml: machine\.device is 'cuda', but"):
        choose_device("cuda")
