"""compress: models of this project, and ways in which people build their own."""

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import vtp
from tests.compressed import normal
from tests.models import random_images, random_model, small_spec
from vtp import compress
from vtp.calibration.watching import watched
from vtp.checkpoint import load, load_class_names, load_resizing, load_spec, save
from vtp.models.layers import LowRankLinear
from vtp.predict import predict


def mlp(width: int = 24, classes: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(12, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, classes)
    )


@pytest.mark.parametrize("family", ["vit", "resnet18"])
@pytest.mark.parametrize("metric", ["loss", "weight"])
def test_a_model_of_this_project_stays_one(family: str, metric: str, tmp_path: Path) -> None:
    model = random_model(small_spec(family), 0, torch.float32)
    images = random_images(model.spec, 24).round().clamp(0, 255).to(torch.uint8)
    small, report = compress(model, images, keep=0.5, metric=metric)
    assert not model.spec.factors
    assert small.spec.factors == report.factors != {}
    path = str(tmp_path / "model")
    save(small, path, ["a", "b"])
    with torch.no_grad():
        assert torch.equal(load(path)(images), small(images))
        assert torch.allclose(predict(load(path), images), small(images).softmax(1), atol=1e-5)
    assert (load_spec(path), load_class_names(path)) == (small.spec, ("a", "b"))
    assert load_resizing(path).image_size == model.spec.image_size


class Encoder(nn.Module):
    """An encoder of PyTorch's own, whose fast path calls no layers."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(32, 2, 64, batch_first=True, activation="gelu")
        self.encoder, self.head = nn.TransformerEncoder(layer, 2), nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x).mean(1))  # type: ignore[no-any-return]


def test_factors_in_an_encoder_of_pytorch_are_not_multiplied_out(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, images = Encoder().eval(), normal(16, 8, 32)
    small, report = compress(model, images, keep=0.3)
    report.save(tmp_path / "file")
    assert [name for name in report.factors if name.endswith(("linear1", "linear2"))]
    for found in (small, vtp.restore(Encoder().eval(), tmp_path / "file")):
        factors = {name: layer for name, layer in found.named_modules() if isinstance(layer, LowRankLinear)}
        with torch.no_grad(), watched(factors) as seen, profile(activities=[ProfilerActivity.CPU]) as operators:
            found(images)
        seen.check_once(factors)
        assert "aten::_transformer_encoder_layer_fwd" not in {event.key for event in operators.key_averages()}


class Shifted(nn.Module):
    def forward(self, bias: Tensor) -> Tensor:
        return 2 * bias + 5


@pytest.mark.parametrize("part", ["weight", "bias"])
def test_a_layer_whose_parts_are_computed_is_left_alone(part: str) -> None:
    model = mlp()
    nn.utils.parametrize.register_parametrization(model[2], part, Shifted())
    small, report = compress(model, normal(40, 12), keep=0.9)
    assert report.left_alone["2"] == f"its {part} is computed from other tensors"
    assert torch.equal(getattr(small[2], part), getattr(model[2], part))


class ByKeyword(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = mlp()[0], mlp()[2], mlp()[4]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(input=self.second(input=self.first(x).relu()).relu())  # type: ignore[no-any-return]


def test_layers_may_be_called_by_keyword() -> None:
    images = normal(40, 12)
    _, by_keyword = compress(ByKeyword(), images, keep=0.4)
    _, plain = compress(mlp(), images, keep=0.4)
    assert by_keyword.measured == plain.measured
    assert by_keyword.left_alone == {"head": "it gives the logits"}


class ViewedHead(nn.Module):
    """Its logits are a part of what its head gives."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(12, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).relu()[:, None])[:, 0]  # type: ignore[no-any-return]


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.one, self.other = nn.Linear(12, 12), nn.Linear(12, 3), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x).relu()
        return (self.one(x) + self.other(x)) / 2  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("model", "heads"), [(mlp(24, 24), ["4"]), (ViewedHead(), ["head"]), (TwoHeads(), ["one", "other"])]
)
def test_heads_are_what_gives_the_logits_and_not_what_is_as_wide(model: nn.Module, heads: list[str]) -> None:
    _, report = compress(model, normal(40, 12), keep=0.9)
    assert report.left_alone == dict.fromkeys(heads, "it gives the logits")


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.body = nn.Embedding(1000, 12), mlp()
        self.seen: set[int] = set()

    def forward(self, ids: Tensor) -> Tensor:
        self.seen |= set(ids.flatten().tolist())
        return self.body(self.embedding(ids).mean(1))  # type: ignore[no-any-return]


def test_recovery_does_not_blend_tokens() -> None:
    ids = torch.where(normal(40, 5) > 0, 499, 998)
    given: dict[str, Any] = {"forward": lambda model, batch: model(batch), "keep": 0.3}
    small, _ = compress(Tokens(), ids, recover=3, **given)
    assert small.seen == {499, 998}


def test_what_is_compressed_is_copied_and_pickled() -> None:
    small, _ = compress(Encoder(), normal(16, 8, 32), keep=0.3)
    file = io.BytesIO()
    torch.save(small, file)
    file.seek(0)
    again = torch.load(file, weights_only=False).eval()
    with torch.no_grad():
        assert torch.equal(again(normal(2, 8, 32)), small.eval()(normal(2, 8, 32)))
