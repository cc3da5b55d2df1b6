"""params.yaml: what keys ask of each other, and a model of its sites."""

import copy
import math
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.params import RESNET, VIT, complaint, parse


@settings(max_examples=25)
@given(size=st.integers(4, 64), patch=st.integers(1, 80))
def test_the_patch_divides_the_image(size: int, patch: int) -> None:
    content = copy.deepcopy(VIT)
    content["data"]["image_size"], content["model"]["patch_size"] = size, patch
    if size % patch == 0:
        parse(content)
    else:
        message = complaint(content)
        assert f"model.patch_size is {patch}" in message
        assert f"must divide data.image_size, which is {size}" in message


def test_resnet_of_small_images_trains_on_batches_of_two_or_more() -> None:
    content = RESNET | {"training": RESNET["training"] | {"batch_size": 1}}
    assert complaint(content) == (
        "params.yaml: training.batch_size is 1, but must be at least 2 for resnet18 with data.image_size 8: "
        "its last norms would see a single value"
    )
    parse(content | {"data": content["data"] | {"image_size": 9}})


def test_a_model_has_its_own_keys_and_sites() -> None:
    assert parse(RESNET).model == type(parse(RESNET).model)(name="resnet18", width=16)
    message = complaint(VIT | {"sparsify": RESNET["sparsify"]})
    assert message.startswith("params.yaml: sparsify.sites is ['block.inner'], but ")
    assert "attention.inner, mlp.hidden" in message
    assert complaint(VIT | {"model": VIT["model"] | {"name": "alexnet"}}) == (
        "params.yaml: model.name is 'alexnet', but must be one of vit, resnet18, pretrained"
    )
    message = complaint(VIT | {"model": {"name": "resnet18", "width": 16, "depth": 2}})
    assert message == "params.yaml: unknown key model.depth; allowed here are name, width"


def test_rates_of_kinds_are_numbers_in_range_of_kinds_that_have_scores() -> None:
    def with_rates(rates: Any) -> dict[str, Any]:
        return VIT | {"prune": VIT["prune"] | {"rates": rates}}

    assert parse(with_rates({"mlp.hidden": 0, "attention.inner": 0.95})).prune.rates == {
        "mlp.hidden": 0.0,
        "attention.inner": 0.95,
    }
    for wrong in (0.96, -0.1, math.nan, "x"):
        message = complaint(with_rates({"mlp.hidden": wrong}))
        assert message == f"params.yaml: prune.rates.mlp.hidden is {wrong!r}, but must be a number from 0 to 0.95"
    assert complaint(with_rates({"hidden": 0.5})) == (
        "params.yaml: a key of prune.rates is 'hidden', but must be one of attention.inner, mlp.hidden, "
        "attention.input, mlp.input, block.inner"
    )
    assert complaint(with_rates({"mlp.input": 0.5})) == (
        "params.yaml: prune.rates is {'mlp.input': 0.5}, but only the sparsify.sites have scores: "
        "attention.inner, mlp.hidden"
    )


def test_a_budget_of_milliseconds_wants_a_batch_to_time() -> None:
    assert complaint(VIT | {"decompose": VIT["decompose"] | {"budget": "latency"}}) == (
        "params.yaml: decompose.budget is 'latency', but must be parameters or macs while calibrate.batch is 0: "
        "no images are timed"
    )


def test_a_shift_leaves_some_of_the_image() -> None:
    assert complaint(VIT | {"training": VIT["training"] | {"crop_padding": 8}}) == (
        "params.yaml: training.crop_padding is 8, but must be below data.image_size, which is 8"
    )
