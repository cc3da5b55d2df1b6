"""compress: any model smaller under a budget, of the same class, and back from a file."""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import vtp
from tests.compressed import compressed, models, normal, small_convnext, small_torchvision_vit, small_vit
from vtp import compress
from vtp.compression.recovery import _drawn


@models
def test_the_same_class_comes_back_within_the_budget_and_close_to_the_model(
    build: Callable[[], nn.Module],
) -> None:
    model, small, report, images = compressed(build)
    assert type(small) is type(model)
    assert report.model is small
    assert (
        sum(unit.parameters for unit in report.units) / sum(unit.parameters_dense for unit in report.units) > 0.3
    )
    assert sum(unit.parameters for unit in report.units) <= 0.5 * sum(u.parameters_dense for u in report.units)
    assert report.parameters == sum(parameter.numel() for parameter in small.parameters())
    assert report.parameters_dense == sum(parameter.numel() for parameter in model.parameters())
    saved = sum(unit.parameters_dense - unit.parameters for unit in report.units)
    assert report.parameters == report.parameters_dense - saved
    with torch.no_grad():
        dense = copy.deepcopy(model).eval()(images).double().log_softmax(1)
        found = small.eval()(images).double().log_softmax(1)
    assert report.measured == pytest.approx(float((dense.exp() * (dense - found)).sum(1).mean()), abs=1e-6)
    assert report.measured < 0.1
    assert f"{report.parameters:,} of {report.parameters_dense:,} parameters" in str(report)


@models
def test_the_model_given_stays_as_it_was(build: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    fresh, model = build(), compressed(build)[0]
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    assert [getattr(m, "inplace", None) for m in model.modules()] == [
        getattr(m, "inplace", None) for m in fresh.modules()
    ]
    for name, tensor in fresh.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name])


@models
def test_a_fresh_model_and_the_file_give_the_same_logits_bit_for_bit(
    build: Callable[[], nn.Module], tmp_path: Path
) -> None:
    _, small, report, images = compressed(build)
    report.save(tmp_path / "small.safetensors")
    torch.manual_seed(1)
    fresh = build()
    before = {name: tensor.clone() for name, tensor in fresh.state_dict().items()}
    restored = vtp.restore(fresh, tmp_path / "small.safetensors")
    assert type(restored) is type(fresh)
    with torch.no_grad():
        assert torch.equal(restored.eval()(images), small.eval()(images))
    assert all(torch.equal(tensor, before[name]) for name, tensor in fresh.state_dict().items())


@models
def test_it_goes_on_training(build: Callable[[], nn.Module]) -> None:
    small, images = compressed(build)[1].train(), compressed(build)[3]
    labels = torch.arange(len(images)) % 10
    optimizer = torch.optim.SGD(small.parameters(), 1e-2)
    torch.manual_seed(0)
    losses = []
    for _ in range(4):
        loss = F.cross_entropy(small(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    compressed.cache_clear()  # it is another model now
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("build", [small_vit, small_torchvision_vit])
def test_it_exports(build: Callable[[], nn.Module]) -> None:
    _, small, _, images = compressed(build)
    program = torch.export.export(small.eval(), (images[:2],))
    with torch.no_grad():
        torch.testing.assert_close(program.module()(images[:2]), small(images[:2]))


@pytest.mark.parametrize("method", ["qr", "lu"])
@pytest.mark.parametrize("metric", ["loss", "activation", "weight"])
def test_macs_are_a_budget_for_every_method_and_metric(method: str, metric: str) -> None:
    torch.manual_seed(0)
    model = small_vit()
    _, report = compress(model, normal(16, 1, 16, 16), keep=0.6, method=method, metric=metric, budget="macs")
    share = sum(unit.macs for unit in report.units) / sum(unit.macs_dense for unit in report.units)
    assert 0.5 < share <= 0.6
    assert (report.predicted is not None) == (metric == "loss")


def test_all_of_the_budget_leaves_every_layer_as_it_is() -> None:
    torch.manual_seed(0)
    model, images = small_vit(), normal(8, 1, 16, 16)
    small, report = compress(model, images, keep=1.0)
    assert all(unit.rank is None for unit in report.units)
    assert (report.measured, report.predicted, report.agreement) == (0.0, 0.0, 1.0)
    with torch.no_grad():
        assert torch.equal(small.eval()(images), model.eval()(images))


def test_what_is_looked_at_follows_the_patterns_and_never_is_a_head() -> None:
    torch.manual_seed(0)
    model, images = small_vit(), normal(8, 1, 16, 16)
    _, report = compress(model, images)
    assert report.left_alone == {"head": "it gives the logits"}
    assert {unit.unit for unit in report.units} == {
        name for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)
    } - {"head"}
    small, report = compress(model, images, layers=["blocks.*.mlp.*"], skip=["blocks.0.*"])
    assert [unit.unit for unit in report.units] == ["blocks.1.mlp.fc1", "blocks.1.mlp.fc2"]
    assert torch.equal(small.blocks[0].mlp.fc1.weight, model.blocks[0].mlp.fc1.weight)  # type: ignore[index]
    _, report = compress(model, images, layers="blocks.1.*", skip="*.attn.*")
    assert [unit.unit for unit in report.units] == ["blocks.1.mlp.fc1", "blocks.1.mlp.fc2"]


def test_a_model_of_one_logit_is_compressed_as_that_of_two_classes() -> None:
    """The logits 0 and z have the probabilities of a sigmoid of z."""
    torch.manual_seed(0)
    one = nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 1))
    two = copy.deepcopy(one)
    two[4] = nn.Linear(24, 2)
    with torch.no_grad():
        for mine, other in ((two[4].weight, one[4].weight), (two[4].bias, one[4].bias)):
            mine.zero_()[1].copy_(other[0])
    images = normal(200, 12)
    small, report = compress(one, images, keep=0.3)
    other, expected = compress(two, images, keep=0.3)
    assert small(images).shape == (200, 1)
    assert report.left_alone == {"4": "it gives the logits"}
    assert report.measured == pytest.approx(expected.measured, rel=1e-3)
    assert report.measured > 1e-6
    assert torch.allclose(small(images)[:, 0], other(images)[:, 1], atol=1e-4)


def test_attention_and_convolutions_of_another_kind_are_left_alone_with_a_reason() -> None:
    reasons = compressed(small_torchvision_vit)[2].left_alone
    out = "encoder.layers.encoder_layer_0.self_attention.out_proj"
    assert reasons[out] == "nn.MultiheadAttention uses its weight without calling it"
    assert compressed(small_convnext)[2].left_alone["features.1.0.block.0"] == "a grouped convolution"


def test_a_model_of_hugging_face_takes_batches_of_its_own() -> None:
    import transformers

    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=16,
        patch_size=8,
    )
    model = transformers.ViTForImageClassification(config)
    images = normal(12, 3, 16, 16)

    def batches() -> Iterator[dict[str, Tensor]]:
        for part in images.split(4):
            yield {"pixel_values": part}

    small, report = compress(model, batches(), forward=lambda model, batch: model(**batch))
    assert isinstance(small, transformers.ViTForImageClassification)
    plain, same = compress(model, images, batch_size=4)
    with torch.no_grad():
        assert torch.equal(small(pixel_values=images).logits, plain(pixel_values=images).logits)
    assert report.measured == same.measured
    assert report.left_alone == {"classifier": "it gives the logits"}


def test_weights_that_layers_share_stay_shared_where_they_are_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)

    def build() -> nn.Sequential:
        model = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 16), nn.Linear(16, 32), nn.Linear(32, 3))
        model[3].weight = model[0].weight
        return model

    small, report = compress(build(), normal(20, 16), skip=["0", "3"])
    assert small[0].weight is small[3].weight
    report.save(tmp_path / "file")
    restored = vtp.restore(build(), tmp_path / "file")
    assert restored[0].weight is restored[3].weight
    assert torch.equal(restored(normal(4, 16)), small(normal(4, 16)))


def test_a_model_in_float64_or_without_gradients_stays_so() -> None:
    torch.manual_seed(0)
    model = small_vit(depth=1).double().eval().requires_grad_(False)
    with torch.no_grad():
        small, _ = compress(model, normal(16, 1, 16, 16).double())
    assert {parameter.dtype for parameter in small.parameters()} == {torch.float64}
    assert not small.head.weight.requires_grad  # type: ignore[union-attr]
    assert small.blocks[0].mlp.fc1.right.weight.requires_grad  # type: ignore[index]
    assert not any(module.training for module in small.modules())


def test_the_same_call_gives_the_same_bytes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, images = small_vit(), normal(16, 1, 16, 16)
    for name in ("first", "second"):
        compress(model, images)[1].save(tmp_path / name)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


def test_the_seed_is_that_of_the_gradients() -> None:
    torch.manual_seed(0)
    model, images = small_vit(), normal(8, 1, 16, 16)
    assert len({compress(model, images, seed=seed)[1].predicted for seed in (0, 1)}) == 2


def test_recovery_draws_blends_of_pairs() -> None:
    images = torch.eye(8).view(8, 1, 8, 1)
    batch = next(_drawn(list(images.split(4)), torch.Generator().manual_seed(0)))
    assert batch.shape == (4, 1, 8, 1)
    assert ((batch.flatten(1) > 0).sum(1) == 2).any()
    torch.testing.assert_close(batch.flatten(1).sum(1), torch.ones(4))
