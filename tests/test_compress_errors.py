"""What compress and restore refuse: one sentence each, and nothing has changed."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import vtp
from tests.compressed import normal, small_vit
from vtp import compress
from vtp.errors import UserError


def small_mlp(width: int = 24) -> nn.Sequential:
    torch.manual_seed(0)
    wide = nn.Linear(width, width)
    return nn.Sequential(nn.Linear(12, width), nn.ReLU(), wide, nn.ReLU(), nn.Linear(width, 3))


class Odd(nn.Module):
    """Two layers and a head, joined by a function of them and of what the first gives."""

    def __init__(self, join: Callable[["Odd", Tensor], Any]) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(12, 16), nn.Linear(16, 16), nn.Linear(16, 3)
        self.join = join

    def forward(self, x: Tensor) -> Any:
        return self.join(self, self.first(x))


def overwritten(what: str) -> Callable[[Odd, Tensor], Tensor]:
    def join(model: Odd, x: Tensor) -> Tensor:
        if what == "output":
            return model.head(model.second(F.relu(x, inplace=True)))  # type: ignore[no-any-return]
        x = torch.tanh(x).clone()
        y = model.second(x)
        x.mul_(2)
        return model.head(x + y)  # type: ignore[no-any-return]

    return join


def without_gradients(model: Odd, x: Tensor) -> Tensor:
    with torch.no_grad():
        found = model.second(x)
    return model.head(x + found)  # type: ignore[no-any-return]


ODD: dict[str, tuple[Callable[[Odd, Tensor], Any], str]] = {
    "never": (lambda model, x: model.head(x), "layer second never runs in a forward pass; .*skip=.'second'."),
    "twice": (lambda model, x: model.head(model.second(model.second(x))), "layer second runs 2 times"),
    "output": (overwritten("output"), "layer first: the model overwrites in place what it gives; leave"),
    "input": (overwritten("input"), "layer second: the model overwrites in place what it reads; leave"),
    "features": (
        lambda model, x: model.second(x)[:, None],
        r"gives \(20, 1, 16\), but must give logits \(B, class",
    ),
    "tuple": (lambda model, x: (model.second(x),), "the model gives tuple, but must give logits"),
    "detached": (lambda model, x: model.head(model.second(x)).detach(), "logits have no gradient"),
    "detached in between": (
        lambda model, x: model.head(model.second(x.detach())),
        "layer first: no gradient comes back to it from the logits, .*; leave the layer alone",
    ),
    "without gradients": (without_gradients, "layer second: no gradient comes back to it"),
    "unused": (lambda model, x: model.head(x + 0 * model.second(x).detach()), "layer second: no gradient"),
    "NaN": (lambda model, x: model.head(model.second(x)) * torch.nan, "logits are not finite on the images"),
}


@pytest.mark.parametrize("name", list(ODD))
def test_models_whose_layers_cannot_be_seen_or_that_give_no_logits(name: str) -> None:
    join, words = ODD[name]
    torch.manual_seed(0)
    model = Odd(join)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(UserError, match=words) as caught:
        compress(model, normal(20, 12), batch_size=20)
    assert str(caught.value).startswith("compress: ")
    assert "\n" not in str(caught.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("what", ["never", "twice", "output", "detached in between"])
def test_leaving_the_layer_alone_is_a_way_out(what: str) -> None:
    torch.manual_seed(0)
    model = Odd(ODD[what][0])
    named = "first" if what in ("output", "detached in between") else "second"
    kept = {"first", "second"} - {named}
    small, report = compress(model, normal(40, 12), skip=[named])
    assert {unit.unit for unit in report.units} == kept
    assert torch.equal(small.get_submodule(named).weight, model.get_submodule(named).weight)  # type: ignore[arg-type]


def shared() -> nn.Module:
    model = small_mlp()
    model.add_module("5", nn.Linear(3, 24))
    model.add_module("6", nn.Linear(24, 24))
    model[6].weight = model[2].weight
    return model


def on_two_devices() -> nn.Module:
    model = small_mlp()
    model[2] = nn.Linear(24, 24, device="meta")
    return model


def that_keeps_what_it_computed() -> nn.Module:
    model = small_mlp()
    model.register_forward_hook(lambda module, inputs, output: setattr(module, "last", output))
    model(IMAGES)
    return model


IMAGES = normal(20, 12)
CALLS: dict[str, tuple[Callable[[], Any], str]] = {
    "half": (
        lambda: compress(small_mlp().half(), IMAGES.half()),
        r"has float16, but must be in float32 or float64: model.float\(\)",
    ),
    "mixed": (lambda: compress(nn.Sequential(small_mlp(), nn.Linear(3, 3).double()), IMAGES), "float32, float64"),
    "no weights": (lambda: compress(nn.Flatten(), IMAGES), "the model has no weights"),
    "meta": (lambda: compress(small_mlp().to("meta"), IMAGES), "weights are on meta, but must be on one device"),
    "devices": (lambda: compress(on_two_devices(), IMAGES), "weights are on cpu, meta, but must be on one device"),
    "shared": (lambda: compress(shared(), IMAGES), "layer 2 shares its weight with 6.weight; .*skip="),
    "uint8": (
        lambda: compress(small_mlp(), (IMAGES * 9).abs().byte()),
        "images are torch.uint8, but must be floating",
    ),
    "0 to 255": (lambda: compress(small_mlp(), IMAGES.abs() * 99), "have values up to .*, but must be normalised"),
    "size": (lambda: compress(small_mlp(), normal(20, 13)), "cannot run on the images: mat1 and mat2 shapes"),
    "size of a vit": (lambda: compress(small_vit(), normal(4, 1, 20, 20)), "cannot run on the images: .*height"),
    "recover": (lambda: compress(small_mlp(), IMAGES, recover=-1), "recover is -1, but must be a whole number"),
    "none": (lambda: compress(small_mlp(), IMAGES[:0]), "there are no images; a few hundred are enough"),
    "no batch": (lambda: compress(small_mlp(), []), "there are no images"),
    "labels": (lambda: compress(small_mlp(), [(IMAGES, IMAGES)]), "a batch is a tuple, but must be a tensor, unl"),
    "method": (lambda: compress(small_mlp(), IMAGES, method="svt"), "method is 'svt', but must be one of svd, "),
    "keep": (lambda: compress(small_mlp(), IMAGES, keep=1.5), "keep is 1.5, but must be a number"),
    "keep 0": (lambda: compress(small_mlp(), IMAGES, keep=0), "keep is 0, but must be a number"),
    "least": (lambda: compress(small_mlp(), IMAGES, keep=0.01), "compress: keep is 0.01, but must be at least 0"),
    "metric": (lambda: compress(small_mlp(), IMAGES, metric="l2"), "metric is 'l2', but must be one of"),
    "budget": (
        lambda: compress(small_mlp(), IMAGES, budget="time"),
        "budget is 'time', but must be one of .*macs$",
    ),
    "allocation": (lambda: compress(small_mlp(), IMAGES, allocation="?"), "allocation is .*, but must be one of"),
    "batch size": (
        lambda: compress(small_mlp(), IMAGES, batch_size=0),
        "batch_size is 0, but must be a whole number of images, 1 or more",
    ),
    "compiled": (
        lambda: compress(torch.compile(small_mlp(), backend="eager"), IMAGES),
        "the model is compiled, but must be what torch.compile was given: its attribute _orig_mod",
    ),
    "compiled part": (
        lambda: compress(nn.Sequential(torch.compile(small_mlp(), backend="eager")), IMAGES),
        "0 of the model is compiled, but must be what",
    ),
    "a name": (lambda: compress("vit", IMAGES), "the model is a str, but must be an nn.Module"),
    "one layer": (
        lambda: compress(nn.Linear(12, 3), IMAGES),
        "no layer is left to factorise .*it gives the logit",
    ),
    "no copy": (
        lambda: compress(that_keeps_what_it_computed(), IMAGES),
        r"the model cannot be copied: .*; if it keeps what it computed, run it on an image under torch.no_grad",
    ),
    "no such layer": (
        lambda: compress(small_mlp(), IMAGES, skip=["4", "head"]),
        "skip has 'head', but must match linear layers or convolutions; the model's first: 0, 2, 4",
    ),
    "no such layers": (lambda: compress(small_mlp(), IMAGES, layers="block*"), r"layers has 'block\*', but must"),
    "nothing left": (lambda: compress(small_mlp(), IMAGES, skip=["*"]), r"no layer is left .* skip=\['\*'\]$"),
    "head left": (lambda: compress(small_mlp(), IMAGES, layers="4"), r"skip=\[\]; 4: it gives the logits$"),
}


@pytest.mark.parametrize("name", list(CALLS))
def test_values_models_and_images_that_cannot_be_used(name: str) -> None:
    call, words = CALLS[name]
    with pytest.raises(UserError, match=words) as caught:
        call()
    assert str(caught.value).startswith("compress: ")
    assert "\n" not in str(caught.value)


class Code:
    """What a pickle may make of its reader."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("run-by-pickle"),)


def test_files_of_another_model_and_no_such_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _, report = compress(small_mlp(), IMAGES)
    report.save("file")
    wider, longer, shorter, other = small_mlp(), small_mlp(), small_mlp(), small_vit(depth=1)
    wider[4] = nn.Linear(24, 4)
    longer.add_module("5", nn.Linear(3, 3))
    shorter[4] = nn.Identity()
    for model, words in (
        (wider, r"tensor 4.bias is \(3,\), but the model wants it \(4,\)"),
        (longer, r"tensor 5.bias is missing, but the model wants it \(3,\)"),
        (shorter, r"tensor 4.bias is \(3,\), but the model wants it absent"),
        (other, "VisionTransformer has no layer 0"),
        (small_mlp(4), r"layer \d is \(4, \d+\), too small for rank \d+"),
    ):
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        with pytest.raises(UserError, match=f"^file: made from another model: {words}"):
            vtp.restore(model, "file")
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    Path("pickle").write_bytes(pickle.dumps(Code()))
    Path("cut").write_bytes(Path("file").read_bytes()[:-1])
    altered = bytearray(Path("file").read_bytes())
    altered[-1] ^= 1
    Path("altered").write_bytes(altered)
    for name in ("pickle", "cut", "altered"):
        with pytest.raises(UserError, match=f"^{name}: truncated, altered or no compressed file"):
            vtp.restore(small_mlp(), name)
    assert not Path("run-by-pickle").exists()
    for model, name, words in (
        (small_mlp(), "nothing", "no such file"),
        (
            small_mlp().to("meta"),
            "file",
            "the model given is on meta, but must be on a device where it has values",
        ),
        (that_keeps_what_it_computed(), "file", "the model cannot be copied: "),
    ):
        with pytest.raises(UserError, match=f"^{name}: {words}"):
            vtp.restore(model, name)
