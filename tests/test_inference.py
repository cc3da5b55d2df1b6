"""The form in which models answer: the same logits, whatever the spec, and fewer steps."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models import FAMILIES, SEEDS, both, random_images, random_model, small_spec, specs, with_factors
from vtp.inference import for_inference
from vtp.inference.vit import MANY_TOKENS, attend
from vtp.models import Model, ModelSpec, build, factorisable, from_state
from vtp.models.spec import Factor
from vtp.models.vit.spec import HeadSpec, ViTSpec

HEADS = st.lists(st.builds(HeadSpec, st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=4)


@st.composite
def exported_specs(draw: st.DrawFn, family: str) -> ModelSpec:
    """Specs without scores; heads of a transformer have q/k and v dims of their own, and any layer has factors."""
    spec = replace(draw(specs(family)), scored=())
    if isinstance(spec, ViTSpec):
        blocks = tuple(replace(block, heads=tuple(draw(HEADS))) for block in spec.blocks)
        prefix = draw(st.integers(0, 2))
        pools = [("patches",), ("class", "patches"), ("class",), ("class", "distillation")]
        spec = replace(
            spec,
            blocks=blocks,
            prefix_tokens=prefix,
            pool=draw(st.sampled_from([pool for pool in pools if len({*pool} - {"patches"}) <= prefix])),
            norm=draw(st.sampled_from(["pooled", "tokens", "none"])),
            query_bias=draw(st.booleans()),
            pre_norm=draw(st.booleans()),
            activation=draw(st.sampled_from(["gelu", "quick_gelu"])),
        )
    factors = {}
    for name, layer in factorisable(build(spec)).items():
        if draw(st.booleans()):
            rows, columns = layer.weight.flatten(1).shape
            rank = draw(st.integers(1, min(rows, columns)))
            form = "pivot" if rank < rows and draw(st.booleans()) else "pair"
            factors[name] = Factor(rank, layer.bias is not None, form)  # type: ignore[arg-type]
    return replace(spec, factors=factors)


def shuffled(model: Model, seed: int) -> Model:
    """The model with its pivots, and the columns that it reads, in any order."""
    generator = torch.Generator().manual_seed(seed)
    state = {
        name: tensor[torch.randperm(len(tensor), generator=generator)] if tensor.dtype == torch.int32 else tensor
        for name, tensor in model.state_dict().items()
    }
    return from_state(model.spec, state)


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=30)
@given(data=st.data(), seed=SEEDS)
def test_the_logits_are_those_of_the_model(family: str, data: st.DataObject, seed: int) -> None:
    model = shuffled(random_model(data.draw(exported_specs(family)), seed), seed)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    images = random_images(model.spec, 3, seed)
    with torch.no_grad():
        expected = model(images)
        torch.testing.assert_close(for_inference(model)(images), expected, rtol=1e-9, atol=1e-9)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


@given(st.sampled_from([2, MANY_TOKENS]), st.integers(1, 9), st.integers(1, 9), SEEDS)
def test_attention_is_the_same_for_any_dims_and_number_of_tokens(tokens: int, qk: int, v: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    q, k, values = (
        torch.randn(2, 3, rows, dims, generator=generator, dtype=torch.float64)
        for rows, dims in ((1, qk), (tokens, qk), (tokens, v))
    )
    weights = torch.exp(torch.einsum("bhmk,bhnk->bhmn", q, k))
    expected = torch.einsum("bhmn,bhnv->bhmv", weights / weights.sum(-1, keepdim=True), values)
    torch.testing.assert_close(attend(q, k, values), expected, rtol=1e-9, atol=1e-9)


@both
@pytest.mark.parametrize("form", ["pair", "pivot"])
def test_in_float32_the_logits_are_within_1e_5(family: str, form: str) -> None:
    spec = with_factors(small_spec(family), 4)
    factors = {name: replace(factor, form=form) for name, factor in spec.factors.items()}  # type: ignore[arg-type]
    model = random_model(replace(spec, factors=factors), 0, torch.float32)
    images = random_images(spec)
    with torch.no_grad():
        torch.testing.assert_close(for_inference(model)(images), model(images), rtol=0, atol=1e-5)


def test_scored_models_answer_too() -> None:
    model = random_model(small_spec("vit", scored=("attention.inner", "mlp.hidden")), 0)
    images = random_images(model.spec)
    with torch.no_grad():
        torch.testing.assert_close(for_inference(model)(images), model(images))


def products(model: Model) -> int:
    """How many linear layers run in a forward pass."""
    calls: list[torch.nn.Module] = []
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(lambda layer, inputs, output: calls.append(layer))
    model(random_images(model.spec, 1))
    return len(calls)


def test_layers_that_read_the_same_rows_are_one_product() -> None:
    """Of two blocks: q, k and v, output, up, down; in the last one the query reads fewer rows, by itself."""
    dense, factorised = small_spec("vit"), with_factors(small_spec("vit"), 4)
    ends = 2  # embedding and head
    assert products(for_inference(random_model(dense, 0))) == 4 + 5 + ends
    assert products(for_inference(random_model(factorised, 0))) == (1 + 3 + 6) + (2 + 1 + 2 + 6) + ends


@pytest.mark.parametrize("form", ["pair", "pivot"])
@pytest.mark.parametrize(("rank", "width"), [(13, 16), (9, 16), (8, 8), (16, 16), (20, 20), (25, 32)])
def test_ranks_to_which_few_are_missing_are_filled_up(rank: int, width: int, form: str) -> None:
    spec = replace(small_spec("vit"), dim=64)
    factor = Factor(rank, bias=True, form=form)  # type: ignore[arg-type]
    model = shuffled(random_model(replace(spec, factors={"blocks.0.attention.output": factor}), 0), 0)
    images = random_images(model.spec)
    fast = for_inference(model)
    right, left = fast.get_submodule("blocks.0.attention.output")
    assert (right.weight.shape[0], left.weight.shape[1]) == (width, width)
    assert model.spec.factors["blocks.0.attention.output"].rank == rank
    with torch.no_grad():
        torch.testing.assert_close(fast(images), model(images), rtol=1e-9, atol=1e-9)
