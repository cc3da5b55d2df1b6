"""Moments of what flows through a layer, and the square root of a covariance, singular or not."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from tests.conftest import ROOT
from tests.models import SEEDS, both, random_images, random_model, small_spec
from vtp.calibration.moments import fisher_draws, load_moments, moments, moments_of, save_moments
from vtp.calibration.roots import check_gradients, square_root
from vtp.calibration.watching import calibration_images, carried_directions
from vtp.errors import UserError
from vtp.models import Model, build, dense_spec, factorisable
from vtp.params import load_params


@st.composite
def covariances(draw: st.DrawFn) -> tuple[Tensor, int]:
    """A covariance matrix of a known rank and scale, its spectrum over six decades, and that rank."""
    size = draw(st.integers(1, 12))
    rank = draw(st.integers(0, size))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    basis = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64)).Q[:, :rank]
    decades = torch.tensor(draw(st.lists(st.floats(-6, 0), min_size=rank, max_size=rank)), dtype=torch.float64)
    scale = 10.0 ** draw(st.integers(-12, 12))
    matrix = (basis * (scale * 10**decades)) @ basis.T
    return (matrix + matrix.T) / 2, rank


@settings(max_examples=60)
@given(covariances())
def test_the_square_root_and_its_pseudo_inverse(drawn: tuple[Tensor, int]) -> None:
    covariance, rank = drawn
    root, inverse = square_root(covariance)
    size = float(covariance.norm())

    def close(first: Tensor, second: Tensor, tolerance: float) -> None:
        torch.testing.assert_close(first, second, rtol=0, atol=tolerance)

    close(root, root.T, 1e-14 * size**0.5)
    assert torch.linalg.eigvalsh(root).min() >= -1e-13 * size**0.5
    close(root @ root, covariance, 1e-13 * size)
    projector = root @ inverse
    assert float(projector.trace()) == pytest.approx(rank, abs=1e-9)
    close(projector, projector.T, 1e-9)
    close(projector @ projector, projector, 1e-9)
    close(projector @ covariance, covariance, 1e-9 * size)


def direct_inputs(model: Model, images: Tensor) -> dict[str, Tensor]:
    """The rows that each layer's weight matrix multiplies, of all images at once."""
    found: dict[str, Tensor] = {}

    def keep(name: str, layer: torch.nn.Module, inputs: Tensor) -> None:
        if isinstance(layer, torch.nn.Conv2d):
            inputs = F.unfold(inputs, layer.kernel_size, padding=layer.padding, stride=layer.stride).mT
        found[name] = inputs.flatten(0, -2)

    hooks = [
        layer.register_forward_pre_hook(lambda layer, inputs, name=name: keep(name, layer, inputs[0]))
        for name, layer in factorisable(model).items()
    ]
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    return found


@both
@pytest.mark.parametrize("count", [1, 3, 300])
def test_moments_are_those_of_all_inputs_and_the_model_stays_as_it_was(family: str, count: int) -> None:
    model = random_model(small_spec(family), seed=3)
    images = random_images(model.spec, count)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found, expected = moments(model, images, 0), direct_inputs(model, images)
    assert found.keys() == expected.keys()
    for name, rows in expected.items():
        centred = rows - rows.mean(0)
        size = float(centred.square().mean()) + 1e-20
        inputs = found[name].inputs
        torch.testing.assert_close(inputs.mean, rows.mean(0), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(inputs.covariance, centred.T @ centred / len(rows), rtol=0, atol=1e-12 * size)
        assert found[name].positions == len(rows) // count
    assert not model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(layer._forward_pre_hooks for layer in model.modules())


@settings(max_examples=20)
@given(st.integers(3, 40), st.integers(2, 20), st.floats(0, 1e3), SEEDS)
def test_directions_that_few_rows_leave_empty_are_empty_in_float32_too(
    dims: int, batch: int, mean: float, seed: int
) -> None:
    torch.manual_seed(seed)
    layer, rows = nn.Linear(dims, 4), mean + torch.randn(dims - 1, dims)
    (flow,) = moments_of({"layer": layer}, layer, rows.split(batch), 0).values()
    assert len(carried_directions(flow.inputs.covariance)[0]) == dims - 2  # about the mean


@both
@pytest.mark.parametrize("count", [1, 20])
def test_gradients_are_those_of_each_image_by_itself(family: str, count: int) -> None:
    model = random_model(small_spec(family), seed=3)
    images = random_images(model.spec, count)
    found = moments(model, images, seed=0)
    outputs: dict[str, Tensor] = {}
    for name, layer in factorisable(model).items():
        layer.register_forward_hook(lambda layer, given, output, name=name: outputs.update({name: output}))
    expected = dict.fromkeys(found, torch.zeros((), dtype=torch.float64))
    draws = fisher_draws(model(images).detach(), torch.Generator().manual_seed(0))
    for image, draw in zip(images.split(1), draws, strict=True):
        moved = model(image)[0] @ draw
        for name, gradient in zip(outputs, torch.autograd.grad(moved, list(outputs.values())), strict=True):
            rows = (gradient.movedim(1, -1) if gradient.ndim == 4 else gradient).flatten(0, -2)
            expected[name] = expected[name] + rows.T @ rows / count
    for name, flow in found.items():
        torch.testing.assert_close(flow.gradients, expected[name], rtol=1e-9, atol=1e-12)


@settings(max_examples=20)
@given(st.lists(st.floats(-8, 8), min_size=2, max_size=5), st.integers(0, 2**32))
def test_draws_have_the_fisher_information_of_the_predictions_as_their_second_moment(
    logits: list[float], seed: int
) -> None:
    probabilities = torch.tensor(logits, dtype=torch.float64).softmax(0)
    fisher = probabilities.diag() - torch.outer(probabilities, probabilities)
    count = 20000
    many = torch.tensor(logits, dtype=torch.float64).expand(count, -1)
    draws = fisher_draws(many, torch.Generator().manual_seed(seed))
    assert draws.sum(1).abs().max() < 1e-6  # a constant added to all logits changes nothing
    largest = draws.abs().amax(0)
    bounds = 6 / count**0.5 * torch.outer(largest, largest) + 1e-6  # Hoeffding's, which chance passes once in 10^7
    assert ((draws.T @ draws / count - fisher).abs() <= bounds).all()


def test_gradients_depend_on_the_seed_alone_and_leave_no_trace() -> None:
    model = random_model(small_spec("vit"), seed=3)
    images = random_images(model.spec, 200)
    first, second, other = (moments(model, images, seed) for seed in (0, 0, 1))
    for name in first:
        assert torch.equal(first[name].gradients, second[name].gradients)
        assert torch.equal(first[name].inputs.covariance, other[name].inputs.covariance)
    assert not torch.equal(first["blocks.0.mlp.up"].gradients, other["blocks.0.mlp.up"].gradients)
    assert not any(layer._forward_hooks for layer in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_layers_that_read_the_same_rows_share_them_in_memory_and_in_the_file(tmp_path: Path) -> None:
    found = moments(random_model(small_spec("vit"), seed=3), random_images(small_spec("vit")), 0)
    save_moments(found, tmp_path / "moments")
    for flows in (found, load_moments(tmp_path / "moments")):
        assert list(flows) == list(found)
        for block in (0, 1):
            query, key, value = (flows[f"blocks.{block}.attention.{part}"] for part in ("query", "key", "value"))
            assert key.inputs is value.inputs
            assert (query.inputs is key.inputs) == (block == 0)  # of the last block's queries there is one token
        assert len({id(flow.inputs) for flow in flows.values()}) == 4 + 5
        for name, flow in flows.items():
            assert flow.positions == found[name].positions
            assert torch.equal(flow.gradients, found[name].gradients)
            assert torch.equal(flow.inputs.mean, found[name].inputs.mean)
            assert torch.equal(flow.inputs.covariance, found[name].inputs.covariance)


def test_a_shortcut_that_reads_what_a_convolution_reads_has_rows_of_its_own() -> None:
    found = moments(random_model(small_spec("resnet18"), seed=3), random_images(small_spec("resnet18")), 0)
    first, shortcut = found["blocks.1.conv1"].inputs, found["blocks.1.shortcut"].inputs
    assert (len(first.mean), len(shortcut.mean)) == (8 * 9, 8)


def test_the_moments_of_the_paper_s_model_fit_a_file_of_one_and_a_half_gigabytes() -> None:
    params = load_params(ROOT / "configs" / "paper.yaml")
    layers = factorisable(build(dense_spec(params.model, image_size=32, channels=3, classes=10)))

    def triangle(size: int) -> int:
        return size * (size + 1) // 2

    numbers = sum(triangle(layer.weight.shape[0]) for layer in layers.values())
    for name, layer in layers.items():  # the key and value read what the query does, but in the last block
        if not name.endswith(("attention.key", "attention.value")) or name == "blocks.11.attention.key":
            numbers += triangle(layer.weight.shape[1]) + layer.weight.shape[1]
    assert 8 * numbers < 1.5e9


def test_the_last_block_asks_for_one_token() -> None:
    model = random_model(small_spec("vit"), seed=3)
    found = {name: flow.positions for name, flow in moments(model, random_images(model.spec), 0).items()}
    tokens = 5
    assert found["blocks.0.attention.query"] == found["blocks.0.mlp.up"] == tokens
    assert found["blocks.1.attention.key"] == found["blocks.1.attention.value"] == tokens
    one = ("attention.query", "attention.output", "mlp.up", "mlp.down")
    assert {found[f"blocks.1.{layer}"] for layer in one} == {1}


@given(size=st.integers(1, 40), count=st.integers(1, 60), seed=st.integers(0, 2**31))
def test_calibration_images_are_drawn_once_each_by_the_seed(size: int, count: int, seed: int) -> None:
    images = torch.arange(size, dtype=torch.uint8).view(-1, 1, 1, 1)
    drawn = calibration_images(images, count, seed).flatten().tolist()
    assert len(drawn) == min(size, count)
    assert drawn == sorted(set(drawn))
    assert drawn == calibration_images(images, count, seed).flatten().tolist()


def test_another_seed_draws_other_images() -> None:
    images = torch.arange(200, dtype=torch.uint8).view(-1, 1, 1, 1)
    assert not torch.equal(calibration_images(images, 50, 0), calibration_images(images, 50, 1))


def test_one_gradient_that_is_no_number_is_enough_to_be_named() -> None:
    model = random_model(small_spec("vit"), 0)
    flows = moments(model, random_images(model.spec, 8), 0)
    check_gradients(flows)
    name = list(flows)[3]
    flows[name].gradients[0, 0] = torch.nan
    with pytest.raises(UserError, match=f"^layer {name}: a gradient .* is not finite"):
        check_gradients(flows)
