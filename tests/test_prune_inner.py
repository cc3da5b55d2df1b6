"""Inner dims that go by what they do to the loss: exact bases, least losses, one budget."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.lowrank import invented, settings_of, wide
from tests.models import SEEDS, both, random_images, random_model, small_spec, specs
from tests.trained import dense as trained
from tests.trained import digits, divergence, scored
from vtp.budget import Budget, dense_cost
from vtp.calibration.moments import Moments, moments
from vtp.calibration.roots import gradient_ridge
from vtp.lowrank import UnitReport, factorise
from vtp.models import ModelSpec
from vtp.models.spec import Form
from vtp.prune import Narrowing, corrected, keep_masks, shared, slim, weights
from vtp.prune.sharing import SHARES, loss_by_ranks
from vtp.scores import scores
from vtp.sealed import digest


def ridged(flow: Moments) -> Tensor:
    return flow.gradients + gradient_ridge(flow) * torch.eye(len(flow.gradients), dtype=torch.float64)


@both
@settings(max_examples=15)
@given(st.data(), SEEDS)
def test_with_all_dims_the_logits_are_the_same(family: str, data: st.DataObject, seed: int) -> None:
    model = random_model(replace(data.draw(specs(family)), scored=()), seed)
    images = random_images(model.spec, 20)
    before = digest(model.state_dict(), {})
    whole, reports = Narrowing.of(model, moments(model, images, 0)).to(1.0)
    assert weights(whole) == weights(model)
    assert all(report.kept == report.dims and report.predicted_loss == 0 for report in reports)
    with torch.no_grad():
        torch.testing.assert_close(whole(images), model(images), rtol=1e-6, atol=1e-6)
    assert digest(model.state_dict(), {}) == before


@both
@settings(max_examples=15)
@given(st.floats(0.05, 1), SEEDS)
def test_the_budget_holds_and_less_of_it_loses_more(family: str, keep: float, seed: int) -> None:
    model = random_model(small_spec(family), seed)
    flows = moments(model, random_images(model.spec, 40), 0)
    cut, reports = Narrowing.of(model, flows).to(keep)
    fewer, more_lost = Narrowing.of(model, flows).to(keep / 2)
    smallest = weights(Narrowing.of(model, flows).to(1e-9)[0])
    assert weights(cut) <= max(keep * weights(model), smallest)
    assert weights(fewer) <= weights(cut)
    assert sum(each.predicted_loss for each in more_lost) >= sum(each.predicted_loss for each in reports) - 1e-12
    assert all(report.kept >= report.heads for report in reports)
    if family == "vit":
        for block in cut.spec.blocks:  # type: ignore[attr-defined]
            assert len(set(block.heads)) == 1


@both
@settings(max_examples=15)
@given(st.floats(0.05, 1), st.integers(2, 7), SEEDS)
def test_dims_go_in_steps(family: str, keep: float, step: int, seed: int) -> None:
    model = random_model(small_spec(family), seed)
    flows = moments(model, random_images(model.spec, 40), 0)
    cut, reports = Narrowing.of(model, flows, step).to(keep)
    for report in reports:
        assert report.kept == report.dims or report.kept % (step * report.heads) == 0
    assert weights(cut) <= weights(model)
    assert weights(cut) >= 0.5 * weights(Narrowing.of(model, flows).to(keep)[0])


@settings(max_examples=10)
@given(st.floats(0.3, 0.9), SEEDS)
def test_of_values_the_loss_is_that_of_the_least_error_before_the_output(keep: float, seed: int) -> None:
    model = random_model(small_spec("vit"), seed)
    flows = moments(model, random_images(model.spec, 200), 0)
    cut, reports = Narrowing.of(model, flows).to(keep)
    flow = flows["blocks.0.attention.output"]
    report = next(each for each in reports if each.site == "blocks.0.attention.value")
    rank, least, found = report.kept // 3, 0.0, 0.0
    value, output = (model.state_dict()[f"blocks.0.attention.{part}.weight"] for part in ("value", "output"))
    new_value, new_output = (cut.state_dict()[f"blocks.0.attention.{part}.weight"] for part in ("value", "output"))
    for head in range(3):
        whole, small = slice(6 * head, 6 * head + 6), slice(rank * head, rank * head + rank)
        pair = new_output[:, small] @ new_value[small]
        kept = torch.linalg.pinv(output[:, whole]) @ pair @ torch.linalg.pinv(value[whole])
        lost = torch.eye(6, dtype=torch.float64) - kept
        gradients = output[:, whole].T @ ridged(flow) @ output[:, whole]
        covariance = flow.inputs.covariance[whole, whole]
        found += float((gradients @ lost @ covariance @ lost.T).trace())
        roots = [torch.linalg.cholesky(each) for each in (gradients, covariance)]
        least += float(torch.linalg.svdvals(roots[0].T @ roots[1])[rank:].square().sum())
    assert found / 2 == pytest.approx(report.predicted_loss, rel=1e-2, abs=1e-9)
    assert least / 2 == pytest.approx(report.predicted_loss, rel=1e-2, abs=1e-9)


@both
@settings(max_examples=10)
@given(st.floats(0.2, 0.9), SEEDS)
def test_behind_an_activation_the_loss_is_what_the_other_dims_cannot_make_up_for(
    family: str, keep: float, seed: int
) -> None:
    model = random_model(small_spec(family), seed)
    flows = moments(model, random_images(model.spec, 300), 0)
    cut, reports = Narrowing.of(model, flows).to(keep)
    maker, reader, site = {
        "vit": ("blocks.0.mlp.up", "blocks.0.mlp.down", "blocks.0.mlp.hidden"),
        "resnet18": ("blocks.0.conv1", "blocks.0.conv2", "blocks.0.inner"),
    }[family]
    flow, weight = flows[reader], model.state_dict()[f"{reader}.weight"]
    before, after = (each.state_dict()[f"{maker}.weight"].flatten(1) for each in (model, cut))
    stays = (before[:, None] == after[None]).all(2).any(1).repeat_interleave(weight[0, 0].numel())
    covariance = flow.inputs.covariance + 1e-6 * flow.inputs.covariance.diagonal().mean() * torch.eye(len(stays))
    inside, between = covariance[stays][:, stays], covariance[stays][:, ~stays]
    left = covariance[~stays][:, ~stays] - between.T @ torch.linalg.solve(inside, between)
    gone = weight.flatten(1)[:, ~stays]
    report = next(each for each in reports if each.site == site)
    assert report.kept == len(after)
    assert report.predicted_loss == pytest.approx(float((gone.T @ ridged(flow) @ gone * left).sum()) / 2, rel=1e-6)


@pytest.mark.parametrize(("keep", "part"), [(0.6, 0.5), (0.3, 0.2)])
def test_a_trained_model_loses_far_less_than_by_learned_scores(keep: float, part: float) -> None:
    images, validation = digits().train.images[:512], digits().validation.images
    by_loss = Narrowing.of(trained(), moments(trained(), images, 0)).to(keep)[0]
    by_scores = slim(scored(), keep_masks(scores(scored()), 0.0))
    rate = 0.0
    while weights(by_scores) > keep * weights(trained()):
        rate += 0.02
        by_scores = slim(scored(), keep_masks(scores(scored()), rate))
    lost = divergence(trained(), corrected(by_loss, trained(), images), validation)
    assert lost < part * divergence(scored(), corrected(by_scores, scored(), images), validation)


def test_a_spec_without_queries_bias_and_one_with_it_keep_their_logits() -> None:
    for query_bias in (False, True):
        spec: ModelSpec = small_spec("vit", query_bias=query_bias)
        model = random_model(spec, 0)
        images = random_images(spec, 30)
        whole = Narrowing.of(model, moments(model, images, 0)).to(1.0)[0]
        with torch.no_grad():
            torch.testing.assert_close(whole(images), model(images), rtol=1e-7, atol=1e-7)


@both
@pytest.mark.parametrize(("unit", "form"), [("parameters", "pivot"), ("parameters", "pair"), ("macs", "pair")])
@settings(max_examples=10)
@given(st.floats(0.3, 0.9), SEEDS)
def test_what_ranks_will_lose_is_what_factorising_then_says(
    family: str, unit: str, form: Form, keep: float, seed: int
) -> None:
    model = random_model(small_spec(family), seed)
    flows = moments(model, random_images(model.spec, 100), 0)
    plan = settings_of(keep=keep, form=form, metric="loss", budget=unit)
    expected = lost_by_ranks(factorise(model, "svd", plan, flows)[1])
    target = keep * dense_cost(model, flows, unit)
    found = loss_by_ranks(model, flows, Budget(keep, unit, form), target)
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("keep", [0.6, 0.8, 0.95])
def test_what_ranks_will_lose_in_milliseconds_is_what_factorising_then_says(keep: float) -> None:
    model = wide()
    flows, times = moments(model, random_images(model.spec, 100), 0), invented(model)
    plan = settings_of(keep=keep, metric="loss", budget="latency")
    expected = lost_by_ranks(factorise(model, "svd", plan, flows, times)[1])
    found = loss_by_ranks(model, flows, Budget(keep, "latency", "pair", 8), keep * times.total, times)
    assert found == pytest.approx(expected, rel=1e-6)


def lost_by_ranks(units: list[UnitReport]) -> float:
    return sum(unit.predicted_loss or 0.0 for unit in units)


def test_dims_take_the_share_that_is_expected_to_lose_least() -> None:
    images = digits().train.images[:512]
    found = shared(trained(), trained(), trained(), images, Budget(0.33, "parameters", "pivot"), 0)
    lost = {share: sum(parts) for share, parts in found.predicted.items()}
    assert lost[found.share] == min(lost.values())
    assert lost[0.0] > 2 * lost[found.share]
    target = weights(trained()) * 0.33**found.share
    assert 0.9 * target < weights(found.model) <= target


@pytest.mark.parametrize(("keep", "can"), [(0.6, True), (0.35, False)])
def test_dims_take_the_most_where_no_share_keeps_a_budget_of_time(
    keep: float, can: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By layers' times that are the same for any dims: of 58 ms at least 22 are left, ten beside layers."""
    model = wide()
    images = random_images(model.spec, 64)
    monkeypatch.setattr("vtp.prune.sharing.measured", lambda slim, batch, dense: invented(slim))
    monkeypatch.setattr("vtp.prune.sharing.milliseconds", lambda *_: 58.0)
    found = shared(model, model, model, images, Budget(keep, "latency", "pair", 8), 0)
    lost = {share: sum(parts) for share, parts in found.predicted.items()}
    assert bool(lost) is can
    assert found.share == (min(lost, key=lambda share: lost[share]) if can else SHARES[-1])


def test_of_queries_the_loss_is_that_of_the_least_error_of_their_products_with_keys() -> None:
    """Their mean counts: keys that go multiply all of a query."""
    model = random_model(small_spec("vit"), 3)
    flows = moments(model, random_images(model.spec, 200), 0)
    cut, reports = Narrowing.of(model, flows).to(0.5)
    report = next(each for each in reports if each.site == "blocks.0.attention.query_key")
    flow, rank = flows["blocks.0.attention.query"], report.kept // 3
    assert 0 < rank < 6
    before, after = (
        [each.state_dict()[f"blocks.0.attention.{name}.weight"] for name in ("query", "key")]
        for each in (model, cut)
    )
    second, lost = flow.inputs.covariance + torch.outer(flow.inputs.mean, flow.inputs.mean), 0.0
    for head in range(3):
        all_dims, kept = slice(6 * head, 6 * head + 6), slice(rank * head, rank * head + rank)
        query, key = (weight[all_dims] for weight in before)
        make, read = (new[kept] @ torch.linalg.pinv(old) for new, old in zip(after, (query, key), strict=True))
        missing = (torch.eye(6, dtype=torch.float64) - read.T @ make) @ query
        lost += float((ridged(flow)[all_dims, all_dims] @ missing @ second @ missing.T).trace()) / 2
    assert lost == pytest.approx(report.predicted_loss, rel=1e-2)


@settings(max_examples=10)
@given(st.sampled_from([0.0, 1e-30, 1e-12, 1e-6]), SEEDS)
def test_a_block_that_hardly_counts_is_narrowed_like_others(size: float, seed: int) -> None:
    """The gradients of what comes before its small weights are small, and their squares may be zero."""
    model = random_model(small_spec("vit"), seed).float()
    with torch.no_grad():
        for layer in ("value", "output"):
            model.get_parameter(f"blocks.1.attention.{layer}.weight").mul_(size)
    images = random_images(model.spec, 40)
    narrowing = Narrowing.of(model, moments(model, images, 0))
    with torch.no_grad():
        torch.testing.assert_close(narrowing.to(1.0)[0](images), model(images), rtol=1e-4, atol=1e-4)
        assert narrowing.to(0.5)[0](images).isfinite().all()
