"""What models promise: their specs, their sizes, their initial weights, their low-rank layers."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models import both, random_images, random_model, small_spec, specs, train_a_step, with_factors
from tests.params import vit_params
from vtp.cost import macs, parameters
from vtp.errors import UserError
from vtp.models import (
    ModelSpec,
    build,
    dense_spec,
    factorisable,
    from_state,
    initialised,
    spec_from_plain,
    spec_to_plain,
)
from vtp.models.layers import LowRankConv2d
from vtp.models.resnet.params import ResNetParams
from vtp.models.vit.params import ViTParams
from vtp.models.vit.spec import BlockSpec, HeadSpec
from vtp.prune import keep_masks, masked, slim
from vtp.scores import scores
from vtp.sealed import digest
from vtp.training.resume import Progress, load_progress, save_progress

ROOT = Path(__file__).resolve().parent.parent
RESNET18 = ResNetParams(name="resnet18", width=64)
PAPER_CODE = vit_params(dim=512, depth=6, heads=8, head_dim=64, mlp_dim=512, dropout=0.1)


def cifar(params: ResNetParams | ViTParams) -> ModelSpec:
    return dense_spec(params, image_size=32, channels=3, classes=10)


@pytest.mark.parametrize(
    ("params", "count", "cost"),
    [(RESNET18, 11_173_962, 555_422_720), (PAPER_CODE, 9_523_722, 569_584_640)],
)
def test_known_sizes(params: ResNetParams | ViTParams, count: int, cost: int) -> None:
    assert parameters(cifar(params)) == count
    assert macs(cifar(params)) == cost


@both
@given(data=st.data())
@settings(max_examples=15)
def test_specs_survive_json(family: str, data: st.DataObject) -> None:
    spec = data.draw(specs(family))
    for changed in (spec, with_factors(spec, 2)):
        assert spec_from_plain(json.loads(json.dumps(spec_to_plain(changed))), "file") == changed


@both
def test_initial_weights_follow_from_the_seed_alone(family: str) -> None:
    spec, mean, std = small_spec(family), (1.0, 2.0, 3.0), (4.0, 5.0, 6.0)
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    first, again, other = (initialised(spec, seed, mean, std) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert digest(first.state_dict(), None) == digest(again.state_dict(), None)
    assert digest(first.state_dict(), None) != digest(other.state_dict(), None)
    assert (first.mean.tolist(), first.std.tolist()) == ([1, 2, 3], [4, 5, 6])
    assert not first(random_images(spec)).any()  # the zero head: every class is as likely
    assert all(tensor.isfinite().all() for tensor in first.state_dict().values())


@pytest.mark.parametrize("weight_std", [0.0, 0.02, 0.1])
def test_initial_weights_have_the_deviation_asked_for_or_that_of_xavier(weight_std: float) -> None:
    params = replace(PAPER_CODE, weight_std=weight_std)
    spec = dense_spec(params, image_size=32, channels=3, classes=10)
    for layer in factorisable(initialised(spec, 0, (0.0,) * 3, (1.0,) * 3)).values():
        found = float(layer.weight.detach().std())
        assert found == pytest.approx(weight_std or (2 / sum(layer.weight.shape)) ** 0.5, rel=0.02)


@both
def test_models_come_in_evaluation_mode_and_see_images_one_by_one(family: str) -> None:
    model = random_model(small_spec(family), seed=0)
    images = random_images(model.spec)
    one_by_one = torch.cat([model(image[None]) for image in images])
    torch.testing.assert_close(model(images), one_by_one, rtol=0, atol=1e-12)
    torch.testing.assert_close(model(images.float()), model(images), rtol=0, atol=0)


@both
def test_what_may_be_factorised(family: str) -> None:
    layers = {
        "vit": ["attention.query", "attention.key", "attention.value", "attention.output", "mlp.up", "mlp.down"],
        "resnet18": ["conv1", "conv2", "shortcut"],
    }[family]
    names = [f"blocks.{block}.{layer}" for block in (0, 1) for layer in layers]
    dense = factorisable(build(small_spec(family)))
    assert list(dense) == [name for name in names if name != "blocks.0.shortcut"]
    assert not factorisable(build(with_factors(small_spec(family), 2)))


@both
def test_full_rank_factors_compute_what_the_dense_layer_did(family: str) -> None:
    model = random_model(small_spec(family), seed=0)
    state = dict(model.state_dict())
    factors = {}
    for name, factor in with_factors(model.spec, 1).factors.items():
        u, s, vt = torch.linalg.svd(state.pop(f"{name}.weight").flatten(1), full_matrices=False)
        factors[name] = replace(factor, rank=len(s))
        shapes = {
            key: value.shape for key, value in build(replace(model.spec, factors=factors)).state_dict().items()
        }
        for side, matrix in (("left", u * s), ("right", vt)):
            state[f"{name}.{side}.weight"] = matrix.reshape(shapes[f"{name}.{side}.weight"])
        if factor.bias:
            state[f"{name}.left.bias"] = state.pop(f"{name}.bias")
    images = random_images(model.spec)
    factorised = from_state(replace(model.spec, factors=factors), state)
    torch.testing.assert_close(factorised(images), model(images), rtol=0, atol=1e-12)


def test_low_rank_convolution_costs_what_its_docstring_says() -> None:
    dense, sparse = small_spec("resnet18"), with_factors(small_spec("resnet18"), 2)
    low_rank = build(sparse).get_submodule("blocks.1.conv1")
    assert isinstance(low_rank, LowRankConv2d)
    assert sum(parameter.numel() for parameter in low_rank.parameters()) == 2 * (8 * 9 + 12)
    assert list(low_rank.state_dict()) == ["right.weight", "left.weight"]
    only = replace(dense, factors={"blocks.1.conv1": sparse.factors["blocks.1.conv1"]})
    assert macs(dense) - macs(only) == 16 * (8 * 9 * 12 - 2 * (8 * 9 + 12))


@both
def test_factorised_model_trains_a_step(family: str) -> None:
    spec = with_factors(small_spec(family), 3)
    model = initialised(spec, 0, (120.0,) * 3, (60.0,) * 3)
    before = model.get_parameter("head.weight").clone()
    train_a_step(model, random_images(spec, 4))
    assert (model.get_parameter("head.weight") != before).any()


@both
def test_resume_brings_back_weights_and_norm_statistics(family: str, tmp_path: Path) -> None:
    model = random_model(small_spec(family), seed=0, dtype=torch.float32).train()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    model(random_images(model.spec)).sum().backward()
    optimizer.step()
    progress = Progress.start({"validation_accuracy": 0.1}, model).after({"validation_accuracy": 0.5}, model, True)
    save_progress(tmp_path / "state.safetensors", progress, model, optimizer)
    other = random_model(small_spec(family), seed=1, dtype=torch.float32)
    loaded = load_progress(tmp_path / "state.safetensors", other, torch.optim.Adam(other.parameters(), 0.01))
    assert digest(other.state_dict(), None) == digest(model.state_dict(), None)
    assert digest(loaded.best, None) == digest(progress.best, None)


@both
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"classes": 0}, "file: spec.classes is 0, but must be a whole number of at least 1"),
        ({"classes": "ten"}, "file: spec.classes is 'ten', but must be a whole number of at least 1"),
        ({"classes": True}, "file: spec.classes is True"),
        ({"blocks": 3}, "file: spec.blocks is 3, but must be a list"),
        ({"blocks": [{}]}, "file: key spec.blocks[0]."),
        ({"colour": "red"}, "file: unknown key spec.colour; allowed here are name, image_size"),
        ({"name": "vgg"}, "spec.name is 'vgg', but must be one of vit, resnet18"),
        ({"name": ["vit"]}, "spec.name is ['vit']"),
    ],
)
def test_plain_data_that_is_no_spec(family: str, change: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=re.escape(words)):
        spec_from_plain(spec_to_plain(small_spec(family)) | change, "file")


@both
def test_weights_that_do_not_fit_the_spec(family: str) -> None:
    spec = small_spec(family)
    state = random_model(spec, seed=0).state_dict()
    with pytest.raises(UserError, match=r"tensor head.bias is \(4,\), but the model wants it \(5,\)"):
        from_state(replace(spec, classes=5), state)
    with pytest.raises(UserError, match=r"tensor extra .* wants it absent"):
        from_state(spec, {**state, "extra": torch.zeros(1)})
    with pytest.raises(UserError, match=r"tensor head\.weight is missing"):
        from_state(spec, {name: tensor for name, tensor in state.items() if name != "head.weight"})
    for name in ("head", "blocks.9.mlp.up", "nothing"):
        with pytest.raises(UserError, match=f"spec.factors names '{name}'"):
            build(replace(spec, factors={name: next(iter(with_factors(spec, 1).factors.values()))}))


def test_columns_of_columns_are_those_that_the_masked_model_reads() -> None:
    block = BlockSpec((HeadSpec(6, 6),) * 3, 20, attention_inputs=10, mlp_inputs=9)
    spec = small_spec("vit", blocks=(block, block), scored=("attention.input", "mlp.input"))
    model = random_model(spec, 0)
    state, generator = dict(model.state_dict()), torch.Generator().manual_seed(0)
    for name, tensor in state.items():
        if name.endswith("columns.index"):  # any columns, in any order
            state[name] = torch.randperm(16, generator=generator)[: len(tensor)].to(tensor.dtype)
    model = from_state(spec, state)
    kept, images = keep_masks(scores(model), 0.4), random_images(spec)
    torch.testing.assert_close(slim(model, kept)(images), masked(model, kept)(images), rtol=1e-9, atol=1e-9)
