"""Scores to keep masks: what goes at which rate, and what the thresholds are."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.models import (
    KINDS,
    RATES,
    both,
    random_model,
    scored_models,
    small_spec,
)
from vtp.params import PruneParams
from vtp.prune import MINIMUM, choose_cut, keep_masks
from vtp.scores import kind_of, scores

some = settings(max_examples=15)


# Few distinct values, so that ties are common.
SITE_SCORES = st.lists(
    st.lists(st.sampled_from([0.0, -0.0, 0.5, -0.5, 1.0, 1e-3]) | st.floats(-2, 2, width=32), min_size=1),
    min_size=1,
    max_size=5,
).map(lambda sites: {f"site{index}": torch.tensor(values) for index, values in enumerate(sites)})


@given(site_scores=SITE_SCORES, rate=RATES)
@settings(max_examples=100)
def test_masks_remove_the_lowest_scores_and_no_more(site_scores: dict[str, Tensor], rate: float) -> None:
    masks = keep_masks(site_scores, rate)
    total = sum(len(score) for score in site_scores.values())
    removed = total - sum(int(mask.sum()) for mask in masks.values())
    zeros = sum(min(int((score == 0).sum()), len(score) - MINIMUM) for score in site_scores.values())
    assert removed == max(zeros, min(round(rate * total), total - MINIMUM * len(site_scores)))
    for site, mask in masks.items():
        if mask.sum() > MINIMUM:
            assert site_scores[site][mask].all()
        assert mask.sum() >= MINIMUM
        assert site_scores[site].abs()[mask].max() == site_scores[site].abs().max()
    largest_removed = max([-1.0, *(float(site_scores[s].abs()[~m].max()) for s, m in masks.items() if (~m).any())])
    for site, mask in masks.items():
        if mask.sum() > MINIMUM:  # nothing of lower score stays while a higher one goes
            assert site_scores[site].abs()[mask].min() >= largest_removed


@given(site_scores=SITE_SCORES, rate=RATES)
@settings(max_examples=100)
def test_masks_depend_on_magnitudes_alone_and_nest(site_scores: dict[str, Tensor], rate: float) -> None:
    masks = keep_masks(site_scores, rate)
    negated = keep_masks({site: -score.double() for site, score in site_scores.items()}, rate)
    stricter = keep_masks(site_scores, min(0.95, rate + 0.2))
    for site, mask in masks.items():
        assert torch.equal(mask, negated[site])
        assert not (stricter[site] & ~mask).any()


def test_of_equal_scores_the_earlier_goes_first() -> None:
    masks = keep_masks({"first": torch.ones(4), "second": torch.ones(4)}, 0.5)
    assert masks["first"].tolist() == [True, False, False, False]
    assert masks["second"].tolist() == [True, False, True, True]


def prune_params(**changes: Any) -> PruneParams:
    defaults: dict[str, Any] = {
        "rate": 0.5,
        "rates": {},
        "threshold": "global",
        "correction": "none",
        "images": 8,
    }
    return PruneParams(**defaults | changes)


SMALL_AND_LARGE = {
    "blocks.0.mlp.hidden": torch.tensor([1e-3, -2e-3, 3e-3, 4e-3]),
    "blocks.0.attention.inner": torch.tensor([4.0, 3.0, -2.0, 1.0]),
}


def test_with_a_threshold_of_its_own_each_site_loses_the_same_fraction() -> None:
    cut = choose_cut(SMALL_AND_LARGE, prune_params(threshold="layer"), {})
    assert cut.keep["blocks.0.mlp.hidden"].tolist() == [False, False, True, True]
    assert cut.keep["blocks.0.attention.inner"].tolist() == [True, True, False, False]
    assert cut.thresholds == {
        "blocks.0.mlp.hidden": [pytest.approx(2e-3)],
        "blocks.0.attention.inner": [2.0],
    }


def test_with_a_threshold_of_its_own_each_head_loses_the_same_fraction() -> None:
    heads = {"blocks.0.attention.inner": [2, 2]}
    cut = choose_cut(SMALL_AND_LARGE, prune_params(threshold="head"), heads)
    assert cut.keep["blocks.0.mlp.hidden"].tolist() == [False, False, True, True]
    assert cut.keep["blocks.0.attention.inner"].tolist() == [True, False, True, False]
    assert cut.thresholds["blocks.0.attention.inner"] == [3.0, 1.0]


@given(data=st.data(), rate=RATES, rates=st.dictionaries(st.sampled_from(KINDS["vit"]), RATES))
@some
def test_heads_of_equal_size_stay_equal_with_a_threshold_of_their_own(
    data: st.DataObject, rate: float, rates: dict[str, float]
) -> None:
    model = data.draw(scored_models("vit"))
    keep = choose_cut(
        scores(model), prune_params(rate=rate, rates=rates, threshold="head"), model.head_dims()
    ).keep
    for site, dims in model.head_dims().items():
        if site in keep:
            left = {(size, int(part.sum())) for size, part in zip(dims, keep[site].split(dims), strict=True)}
            assert len(left) == len(set(dims))
            lost = rates.get(kind_of(site), rate)
            assert all(count == max(MINIMUM, size - round(lost * size)) for size, count in left)


def test_a_global_threshold_is_the_largest_score_that_goes_anywhere() -> None:
    cut = choose_cut(SMALL_AND_LARGE, prune_params(), {})
    assert int(cut.keep["blocks.0.attention.inner"].sum()) == 3
    assert all(thresholds == [1.0] for thresholds in cut.thresholds.values())
    cut = choose_cut(SMALL_AND_LARGE, prune_params(rate=0.0), {})
    assert all(thresholds == [] for thresholds in cut.thresholds.values())


@given(
    data=st.data(),
    rate=RATES,
    rates=st.dictionaries(st.sampled_from(KINDS["vit"]), RATES),
)
@some
def test_a_kind_with_a_rate_of_its_own_is_ranked_alone(
    data: st.DataObject, rate: float, rates: dict[str, float]
) -> None:
    site_scores = scores(data.draw(scored_models("vit")))
    keep = choose_cut(site_scores, prune_params(rate=rate, rates=rates), {}).keep
    assert list(keep) == list(site_scores)
    for kind in rates:
        alone = {site: score for site, score in site_scores.items() if kind_of(site) == kind}
        if alone:
            expected = keep_masks(alone, rates[kind])
            assert all(torch.equal(keep[site], mask) for site, mask in expected.items())
    others = {site: score for site, score in site_scores.items() if kind_of(site) not in rates}
    if others:
        expected = keep_masks(others, rate)
        assert all(torch.equal(keep[site], mask) for site, mask in expected.items())


@both
def test_the_kind_of_a_site_is_what_sites_are_chosen_by(family: str) -> None:
    found = {kind_of(site) for site in scores(random_model(small_spec(family, scored=KINDS[family]), seed=0))}
    assert found == set(KINDS[family])
