"""compress: models that run their layers in ways of their own."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import vtp
from tests.compressed import normal, small_resnet, small_vit
from vtp import compress
from vtp.errors import UserError
from vtp.models.layers import LowRankLinear
from vtp.models.spec import Factor


class InAList(nn.Module):
    """Its layers are registered by name, and called from a list."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = [nn.Linear(12, 32), nn.Linear(32, 32)]
        self.first, self.second = self.layers
        self.head = nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x).tanh()
        return self.head(x)  # type: ignore[no-any-return]


def test_a_layer_that_nothing_can_stand_in_for_is_refused_by_name() -> None:
    with pytest.raises(
        UserError, match=r"^compress: layer (first|second) is held elsewhere, too, as in a list, .*skip="
    ):
        compress(InAList(), normal(40, 12), keep=0.4)
    _, report = compress(InAList(), normal(40, 12), keep=1.0)  # where nothing takes its place, all is well
    assert report.measured == 0


def test_a_layer_with_hooks_or_a_forward_of_its_own_is_left_alone() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 32), nn.Tanh(), nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 3))
    model[2].register_forward_hook(lambda layer, inputs, output: 2 * output)
    plain = model[3].forward
    model[3].forward = lambda x: 3 * plain(x)
    small, report = compress(model, normal(100, 12), keep=0.7)
    assert report.left_alone == {
        "2": "it has hooks, which factors would not have",
        "3": "Linear computes something else",
        "4": "it gives the logits",
    }
    assert [unit.unit for unit in report.units] == ["0"]
    assert small[2]._forward_hooks


class Padded(nn.Module):
    """Looks at the sizes of its layers, as those of Hugging Face that pad as TensorFlow does."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.linear, self.head = nn.Conv2d(3, 24, 3, 2), nn.Linear(24, 24), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        layer = self.convolution
        (high, wide), (down, across) = layer.kernel_size, layer.stride
        assert (layer.in_channels, layer.out_channels, layer.groups, layer.dilation) == (3, 24, 1, (1, 1))
        x = layer(nn.functional.pad(x, (wide - across, 0, high - down, 0))).mean((2, 3))
        assert x.shape[1] == self.linear.in_features == self.linear.out_features
        return self.head(self.linear(x))  # type: ignore[no-any-return]


def test_a_model_may_look_at_the_sizes_of_its_layers() -> None:
    torch.manual_seed(0)
    _, report = compress(Padded(), normal(20, 3, 8, 8), keep=0.5)
    assert {unit.unit for unit in report.units if unit.rank} == {"convolution", "linear"}


class Pooling(nn.Module):
    """Attends by a query of its own, which a batch shares."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.query = nn.Parameter(normal(*shape))
        self.asks, self.reads, self.head = nn.Linear(32, 32), nn.Linear(12, 32), nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.reads(x)
        weights = (tokens @ self.asks(self.query).view(-1, 32).T).softmax(1)
        return self.head((weights.transpose(1, 2) @ tokens).mean(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("shape", [(32,), (1, 32), (5, 32)])
@pytest.mark.parametrize("budget", ["parameters", "macs"])
def test_a_layer_that_a_batch_shares_is_factorised_however_large_a_batch_is(
    shape: tuple[int, ...], budget: str
) -> None:
    ranks = []
    for batch_size in (1, 4):
        torch.manual_seed(0)
        model, images = Pooling(*shape), normal(64, 6, 12)
        _, report = compress(model, images, layers="asks", budget=budget, batch_size=batch_size)
        ranks.append(report.units[0].rank)
        assert report.measured < 1e-4
    assert ranks[0] == ranks[1]
    assert ranks[0] is not None


class Experts(nn.Module):
    """Each image goes to one of two experts, which run on none as well, or not."""

    def __init__(self, on_none: bool = False) -> None:
        super().__init__()
        self.on_none = on_none
        self.experts, self.head = nn.ModuleList([nn.Linear(12, 32), nn.Linear(12, 32)]), nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        joined = x.new_zeros(len(x), 32)
        for expert, chosen in zip(self.experts, (x[:, 0] > 0, x[:, 0] <= 0), strict=True):
            if chosen.any() or self.on_none:
                joined = joined.index_add(0, chosen.nonzero().flatten(), expert(x[chosen]))
        return self.head(joined)  # type: ignore[no-any-return]


def test_an_expert_to_which_some_batch_does_not_go_is_named() -> None:
    torch.manual_seed(0)
    images = normal(200, 12)
    images[:4, 0], images[4:8, 0] = torch.tensor([1.0, -1, 1, -1]), 1
    with pytest.raises(UserError, match=r"^compress: layer experts.1: the model runs it 0 times on some images"):
        compress(Experts(), images, batch_size=4)
    for experts, batch_size in ((Experts(), 100), (Experts(on_none=True), 4)):
        _, report = compress(experts, images, batch_size=batch_size)
        assert all(unit.rank for unit in report.units)
    with pytest.raises(UserError, match=r"^compress: layer experts.1: none of the images comes to it"):
        compress(Experts(on_none=True), images[4:8])


class Routed(nn.Module):
    """Where an image goes is decided by what a layer makes of it."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.head = nn.Linear(12, 12), nn.Linear(32, 3)
        self.experts = nn.ModuleList([nn.Linear(12, 32), nn.Linear(12, 32)])

    def forward(self, x: Tensor) -> Tensor:
        score = self.gate(x)[:, :1]
        first = score > 0
        joined = torch.zeros(len(x), 32)
        for expert, chosen in zip(self.experts, (first, ~first), strict=True):
            if chosen.any():
                joined = joined + chosen * score * expert(x)
        return self.head(joined)  # type: ignore[no-any-return]


def test_an_expert_to_which_no_image_goes_any_more_is_none_that_is_held_elsewhere() -> None:
    moved = 0
    for seed in range(10):
        torch.manual_seed(seed)
        model, images = Routed(), normal(24, 12, seed=seed)
        towards, bias = model.gate.weight[0].detach(), model.gate.bias[0].detach()
        wanted = torch.tensor(
            [1.0, 1, 1, 1, 1, -1e-4] + [1.0, -1] * 9
        )  # the sixth all but goes to the other expert
        images += (wanted - bias - images @ towards)[:, None] * towards / towards.square().sum()
        small, _ = compress(model, images, batch_size=6, metric="weight", allocation="uniform")
        moved += bool((small.gate(images[:6])[:, 0] > 0).all())
    assert moved


class Normed(nn.Module):
    """A norm by hand, whose gradient is NaN where what it reads is zero."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after, self.head = nn.Linear(12, 32, bias=False), nn.Linear(32, 32), nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        x = x / (x.square().sum(-1, keepdim=True).sqrt() + 1e-6)
        return self.head(self.after(x))  # type: ignore[no-any-return]


def test_a_gradient_that_is_no_number_is_named_and_another_metric_does_without() -> None:
    torch.manual_seed(0)
    model, images = Normed(), normal(100, 12)
    images[7] = 0
    with pytest.raises(
        UserError, match=r"^compress: layer before: a gradient .* is not finite .* the metric activ"
    ):
        compress(model, images)
    assert compress(model, images, metric="activation")[1].measured < 0.1
    assert compress(model, images[8:])[1].measured < 0.1


@pytest.mark.parametrize("build", [small_vit, small_resnet])
def test_what_was_compressed_twice_comes_back_from_one_file(
    build: Callable[[], nn.Module], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = build()
    images = normal(24, *((1, 16, 16) if build is small_vit else (3, 16, 16)))
    once, first = compress(model, images, keep=0.6)
    twice, second = compress(once, images, keep=0.6)
    assert second.parameters < first.parameters < second.parameters_dense + 1
    assert set(first.factors) < set(second.factors)
    second.save(tmp_path / "twice")
    torch.manual_seed(1)
    restored = vtp.restore(build(), tmp_path / "twice")
    with torch.no_grad():
        assert torch.equal(restored.eval()(images), twice.eval()(images))


class Factorised(nn.Module):
    """Its constructor makes low-rank factors."""

    def __init__(self) -> None:
        super().__init__()
        self.low = LowRankLinear(nn.Linear(12, 32), Factor(4, True))
        self.high, self.head = nn.Linear(32, 32), nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.high(self.low(x).tanh()))  # type: ignore[no-any-return]


def test_factors_that_a_constructor_makes_are_met_again(tmp_path: Path) -> None:
    torch.manual_seed(0)
    images = normal(50, 12)
    small, report = compress(Factorised(), images, skip="low.*")
    report.save(tmp_path / "once")
    once = vtp.restore(Factorised(), tmp_path / "once")
    assert torch.equal(once(images), small(images))
    twice, report = compress(once, images, layers="high.*", keep=0.5)
    report.save(tmp_path / "twice")
    assert torch.equal(vtp.restore(once, tmp_path / "twice")(images), twice(images))


@given(st.integers(20, 60))
def test_the_least_that_may_be_kept_is_named_so_that_it_is_accepted(width: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, width), nn.Tanh(), nn.Linear(width, width), nn.Linear(width, 3))
    with pytest.raises(UserError, match=r"must be at least") as caught:
        compress(model, normal(20, 12), keep=0.01)
    least = float(str(caught.value).partition("at least ")[2].partition(" ")[0])
    compress(model, normal(20, 12), keep=least)
    with pytest.raises(UserError, match=r"must be at least"):
        compress(model, normal(20, 12), keep=least - 1e-4)
