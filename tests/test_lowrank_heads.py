"""Heads whose queries and keys have other dims than their values, as a spec may ask for."""

import pytest
import torch
from torch.nn import functional as F

from tests.lowrank import settings_of
from tests.models import random_images, random_model, small_spec
from vtp.calibration.moments import moments
from vtp.cost import macs, parameters
from vtp.lowrank import factorise
from vtp.models import Model, from_state
from vtp.models.vit.block import Attention
from vtp.models.vit.spec import BlockSpec, HeadSpec, ViTSpec
from vtp.prune import masked, slim
from vtp.scores import scores, with_scores

HEADS = (HeadSpec(qk=3, v=5), HeadSpec(qk=3, v=5), HeadSpec(qk=4, v=2))


def uneven() -> Model:
    return random_model(small_spec("vit", blocks=(BlockSpec(HEADS, 20),) * 2), seed=5)


def attention_of(model: Model) -> Attention:
    attention = model.get_submodule("blocks.0.attention")
    assert isinstance(attention, Attention)
    return attention


def test_each_head_attends_by_its_own_queries_and_keys_to_its_own_values() -> None:
    attention = attention_of(uneven())
    x = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    q, k, v = attention.query(x), attention.key(x), attention.value(x)
    assert (q.shape[-1], k.shape[-1], v.shape[-1]) == (10, 10, 12)
    parts = zip(q.split([3, 3, 4], -1), k.split([3, 3, 4], -1), v.split([5, 5, 2], -1), strict=True)
    heads = [F.scaled_dot_product_attention(*part, scale=attention.scale) for part in parts]
    expected = attention.output(torch.cat(heads, -1))
    torch.testing.assert_close(attention(x, None), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("metric", ["weight", "activation", "loss"])
@pytest.mark.parametrize("method", ["svd", "qr_pivoted", "lu"])
def test_they_are_factorised_at_their_own_shapes_and_exactly_where_the_rank_is_enough(
    method: str, metric: str
) -> None:
    model = uneven()
    state = dict(model.state_dict())
    for part in ("query", "key", "value", "output"):
        U, Sigma, V = torch.linalg.svd(state[f"blocks.0.attention.{part}.weight"], full_matrices=False)
        state[f"blocks.0.attention.{part}.weight"] = (U[:, :2] * Sigma[:2]) @ V[:2]
    model = from_state(model.spec, state)
    images = random_images(model.spec, 40)
    factorised, reports = factorise(model, method, settings_of(metric=metric, keep=0.8), moments(model, images, 0))
    found = {report.unit: report for report in reports}
    shapes = {part: found[f"blocks.1.attention.{part}"].shape for part in ("query", "key", "value", "output")}
    assert shapes == {"query": (10, 16), "key": (10, 16), "value": (12, 16), "output": (16, 12)}
    ranks = [found[f"blocks.0.attention.{part}"].rank for part in shapes]
    assert all(rank is None or rank >= 2 for rank in ranks)
    assert any(ranks)
    x = model.get_submodule("blocks.0.attention_norm")(model.embed(images))
    found_there, expected = (attention_of(each)(x, None) for each in (factorised, model))
    torch.testing.assert_close(found_there, expected, rtol=1e-8, atol=1e-8)
    for cost, total in (("parameters", parameters), ("macs", macs)):
        saved = sum(getattr(report, f"{cost}_dense") - getattr(report, cost) for report in reports)
        assert total(model.spec) - total(factorised.spec) == saved > 0


def test_the_dims_that_they_read_and_those_of_the_mlp_may_have_scores() -> None:
    """Not their inner dims: one score there scales a dim of query, key and value alike."""
    model, images = uneven(), random_images(uneven().spec)
    scored = with_scores(model, ("attention.input", "mlp.hidden", "mlp.input"))
    assert torch.equal(scored(images), model(images))
    generator = torch.Generator().manual_seed(1)
    for score in scores(scored).values():
        score.data = torch.randn(score.shape, generator=generator, dtype=score.dtype)
    keep = {site: torch.arange(len(score)) % 3 > 0 for site, score in scores(scored).items()}
    slimmed = slim(scored, keep)
    assert isinstance(slimmed.spec, ViTSpec)
    assert all(block.heads == HEADS for block in slimmed.spec.blocks)
    torch.testing.assert_close(slimmed(images), masked(scored, keep)(images), rtol=0, atol=1e-12)
