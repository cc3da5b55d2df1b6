"""What a model costs, by formula, and how well it does."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from tests.models import SEEDS, both, random_images, random_model, small_spec, specs, with_factors
from vtp.cost import macs, parameters
from vtp.data.dataset import Split
from vtp.measure import accuracy, accuracy_by_class, answers, divergence, logits
from vtp.models import Model, ModelSpec, build, in_batches
from vtp.models.vit.spec import ViTSpec


def labelled(spec: ModelSpec, count: int) -> Split:
    """Random images, each class among them."""
    return Split(random_images(spec, count), torch.arange(count) * 7 % spec.classes)


def macs_by_formula(spec: ViTSpec) -> int:
    """Multiply-accumulates of a vision transformer for one image, layer by layer, by hand."""

    def linear(name: str, inputs: int, outputs: int, positions: int) -> int:
        factor = spec.factors.get(name)
        return positions * (factor.rank * (inputs + outputs) if factor else inputs * outputs)

    patches = (spec.image_size // spec.patch_size) ** 2
    tokens, total = patches + 1, patches * spec.channels * spec.patch_size**2 * spec.dim
    for index, block in enumerate(spec.blocks):
        name = f"blocks.{index}."
        asking = 1 if index == len(spec.blocks) - 1 else tokens  # only the class token is read in the end
        qk, v = sum(head.qk for head in block.heads), sum(head.v for head in block.heads)
        read = block.attention_inputs or spec.dim
        total += linear(name + "attention.query", read, qk, asking)
        total += linear(name + "attention.key", read, qk, tokens)
        total += linear(name + "attention.value", read, v, tokens)
        total += asking * tokens * (qk + v)  # scores, and sums weighted by them
        total += linear(name + "attention.output", v, spec.dim, asking)
        total += linear(name + "mlp.up", block.mlp_inputs or spec.dim, block.hidden, asking)
        total += linear(name + "mlp.down", block.hidden, spec.dim, asking)
    return total + spec.dim * spec.classes


@settings(max_examples=8)
@given(specs("vit"), st.integers(0, 3))
def test_macs_are_those_of_the_formula(spec: ViTSpec, rank: int) -> None:
    assert macs(spec) == macs_by_formula(spec)
    if rank:
        factorised = with_factors(spec, rank)
        assert isinstance(factorised, ViTSpec)
        assert macs(factorised) == macs_by_formula(factorised)


class Largest(TorchDispatchMode):
    """The number of entries of the largest tensor that is made inside it."""

    entries = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.entries = max(self.entries, result.numel())
        return result


@pytest.mark.parametrize("changes", [{}, {"patch_size": 1}, {"hidden": 500}])
@both
def test_the_largest_activation_is_that_of_one_image(family: str, changes: dict[str, int]) -> None:
    spec = small_spec(family)
    if isinstance(spec, ViTSpec):
        blocks = tuple(replace(block, hidden=changes.get("hidden", block.hidden)) for block in spec.blocks)
        spec = replace(spec, patch_size=changes.get("patch_size", spec.patch_size), blocks=blocks)
    model, seen = build(spec), Largest()
    with seen, torch.device("meta"), torch.no_grad():
        for count in (10, 20):  # what does not grow with them is a weight
            before = seen.entries
            model(torch.zeros(count, spec.channels, spec.image_size, spec.image_size))
    assert seen.entries - before == 10 * spec.largest_activation


def test_a_model_with_large_activations_takes_fewer_images_at_once() -> None:
    spec = small_spec("vit")
    assert isinstance(spec, ViTSpec)
    large = replace(spec, image_size=512, patch_size=8)
    for some, most in ((spec, 250), (large, 2**27 / (len(large.blocks[0].heads) * 4097**2))):
        batches = in_batches(torch.zeros(300, 1, dtype=torch.uint8), some)
        assert sum(map(len, batches)) == 300
        assert most / 2 - 1 < len(batches[0]) <= most


@pytest.mark.parametrize("rank", [0, 2])
@both
def test_macs_are_half_the_operations_that_pytorch_counts(family: str, rank: int) -> None:
    spec = with_factors(small_spec(family), rank) if rank else small_spec(family)
    image = torch.zeros(1, spec.channels, spec.image_size, spec.image_size, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        build(spec)(image)
    assert 2 * macs(spec) == counter.get_total_flops()


def test_macs_of_a_residual_network_are_those_of_its_convolutions() -> None:
    spec = small_spec("resnet18")  # 8×8 pixels, stem 8, blocks (8, 8, stride 1) and (12, 16, stride 2)
    stem = 64 * 9 * 3 * 8
    first = 64 * 9 * 8 * 8 * 2
    second = 16 * (9 * 8 * 12 + 9 * 12 * 16 + 8 * 16)
    head = 16 * 4
    assert macs(spec) == stem + first + second + head
    low = 64 * 2 * (9 * 8 + 8) * 2 + 16 * 2 * (9 * 8 + 12 + 9 * 12 + 16 + 8 + 16)
    assert macs(with_factors(spec, 2)) == stem + low + head


def test_parameters_are_counted_by_formula() -> None:
    spec = small_spec("vit")  # patch 4 of 8, 3 channels, dim 16, 3 heads of 6, hidden 20, 2 blocks, 4 classes
    block = 4 * 16 * 18 + 16 + 2 * 32 + 16 * 20 + 20 + 20 * 16 + 16
    assert parameters(spec) == 48 * 16 + 16 + 16 + 5 * 16 + 2 * block + 32 + 16 * 4 + 4
    low = 2 * (4 * (16 + 18) + 2 * (16 + 20))
    assert parameters(spec) - parameters(with_factors(spec, 2)) == 2 * (4 * 16 * 18 + 2 * 16 * 20 - low)


@both
def test_logits_come_in_order_whatever_the_batch(family: str) -> None:
    model = random_model(small_spec(family), seed=0)
    split = labelled(model.spec, 601)  # three batches, the last one smaller
    found = logits(model, split.images)
    assert found.shape == (601, 4)
    assert not found.requires_grad
    with torch.no_grad():
        one_by_one = torch.cat([model(image[None]) for image in split.images[::50]])
    torch.testing.assert_close(found[::50], one_by_one, rtol=1e-9, atol=1e-9)
    order = torch.randperm(601, generator=torch.Generator().manual_seed(0))
    shuffled = logits(model, split.images[order])
    torch.testing.assert_close(shuffled, found[order], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("training", [True, False])
def test_measuring_needs_no_mode_and_leaves_the_model_in_its_own(training: bool) -> None:
    model = random_model(small_spec("vit", dropout=0.5), seed=0)
    expected = logits(model.eval(), labelled(model.spec, 20).images)
    assert torch.equal(logits(model.train(training), labelled(model.spec, 20).images), expected)
    assert model.training is training


@settings(max_examples=15)
@given(SEEDS, st.integers(4, 60))
def test_accuracy_is_the_mean_over_classes_by_their_size(seed: int, count: int) -> None:
    model: Model = random_model(small_spec("vit"), seed)
    split = labelled(model.spec, count)
    names = ("a", "b", "c", "d")
    by_class = accuracy_by_class(answers(model, split), split, names)
    assert tuple(by_class) == names
    sizes = torch.bincount(split.labels, minlength=4).tolist()
    weighted = sum(by_class[name] * size for name, size in zip(names, sizes, strict=True)) / count
    assert accuracy(model, split) == pytest.approx(weighted, abs=1e-12)
    assert all(0 <= value <= 1 for value in by_class.values())


def test_accuracy_of_labels_that_the_model_gives_is_one() -> None:
    model = random_model(small_spec("vit"), seed=1)
    images = random_images(model.spec, 50)
    right = Split(images, logits(model, images).argmax(1))
    assert accuracy(model, right) == 1.0
    assert accuracy(model, Split(images, (right.labels + 1) % 4)) == 0.0
    half = torch.where(torch.arange(50) < 25, right.labels, (right.labels + 1) % 4)
    assert accuracy(model, Split(images, half)) == 0.5


def test_the_divergence_is_of_the_predictions_that_were_expected() -> None:
    dense, found = torch.tensor([[0.9, 0.1], [0.9, 0.1]]).log(), torch.tensor([[0.5, 0.5], [0.2, 0.8]]).log()
    of_each = [0.9 * math.log(0.9 / other) + 0.1 * math.log(0.1 / (1 - other)) for other in (0.5, 0.2)]
    assert divergence(dense, found) == (pytest.approx(sum(of_each) / 2), 0.5)
