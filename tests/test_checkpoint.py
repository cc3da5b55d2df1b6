"""Any checkpoint reloads, bit for bit, and nothing else is accepted."""

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models import FAMILIES, KINDS, both, random_images, random_model, small_spec, with_factors
from tests.params import vit_params
from vtp.checkpoint import load, load_class_names, load_resizing, load_spec, save
from vtp.cost import parameters
from vtp.data.dataset import Resizing
from vtp.errors import UserError
from vtp.models import Model, dense_spec, from_state
from vtp.models.resnet.params import ResNetParams
from vtp.models.vit.params import ViTParams
from vtp.models.vit.spec import Resize
from vtp.prune import keep_masks, slim
from vtp.scores import scores
from vtp.sealed import digest, read_content, write_sealed

OLD = Path(__file__).parent / "checkpoints"
"""Of before specs had a version: a scored and a factorised model of each family, and their logits."""

PIXELS = torch.arange(8 * 3 * 8 * 8).mul(37).remainder(256).view(8, 3, 8, 8).to(torch.uint8)
RELOAD = """
import hashlib, sys, torch
from vtp.checkpoint import load
pixels = torch.arange(8 * 3 * 8 * 8).mul(37).remainder(256).view(8, 3, 8, 8).to(torch.uint8)  # PIXELS
for path in sys.argv[1:]:
    print(hashlib.sha256(load(path)(pixels).detach().numpy().tobytes()).hexdigest())
"""


def dense(family: str) -> Model:
    return random_model(small_spec(family), seed=0, dtype=torch.float32)


def scored(family: str) -> Model:
    return random_model(small_spec(family, scored=KINDS[family]), seed=1, dtype=torch.float32)


def slimmed(family: str) -> Model:
    model = scored(family)
    return slim(model, keep_masks(scores(model), 0.6))


def factorised(family: str) -> Model:
    return random_model(with_factors(small_spec(family), 3), seed=2, dtype=torch.float32)


def slimmed_and_factorised(family: str) -> Model:
    return random_model(with_factors(slimmed(family).spec, 2), seed=3, dtype=torch.float32)


KINDS_OF_MODEL: list[Callable[[str], Model]] = [dense, scored, slimmed, factorised, slimmed_and_factorised]


def test_fresh_process_gives_the_same_bits(tmp_path: Path) -> None:
    wanted, paths = [], []
    for family in FAMILIES:
        for make in KINDS_OF_MODEL:
            model, path = make(family), tmp_path / f"{family}-{make.__name__}.safetensors"
            save(model, path)
            wanted.append(hashlib.sha256(model(PIXELS).detach().numpy().tobytes()).hexdigest())
            paths.append(str(path))
    command = [sys.executable, "-c", RELOAD, *paths]
    found = subprocess.run(command, text=True, capture_output=True, check=True)
    assert found.stdout.split() == wanted
    assert len(set(wanted)) == len(wanted)


@both
@pytest.mark.parametrize("make", KINDS_OF_MODEL)
def test_loaded_model_is_the_saved_one(family: str, make: Callable[[str], Model], tmp_path: Path) -> None:
    model = make(family)
    save(model, tmp_path / "first")
    loaded = load(tmp_path / "first")
    save(loaded, tmp_path / "second")
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
    assert loaded.spec == model.spec
    assert not loaded.training
    assert digest(loaded.state_dict(), None) == digest(model.state_dict(), None)


RESIZINGS = st.builds(
    Resizing,
    st.just(8),
    st.just(0) | st.integers(8, 2048),
    st.booleans(),
    st.sampled_from(["bilinear", "bicubic"]),
)


@given(resizing=RESIZINGS, names=st.just(()) | st.just(("cat", "dog", "Käfer", "newt")))
@settings(max_examples=25)
def test_a_checkpoint_knows_how_images_come_to_its_size(
    resizing: Resizing, names: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "resizing"
    save(dense("vit"), path, names, resizing)
    assert load_resizing(path) == resizing
    assert load_class_names(path) == (names or ("0", "1", "2", "3"))
    assert load_spec(path) == load(path).spec == small_spec("vit")


def test_a_checkpoint_that_does_not_say_how_is_of_images_squashed_bilinearly(tmp_path: Path) -> None:
    assert load_resizing(OLD / "vit-scored.safetensors") == Resizing(8, 0, True, "bilinear")
    save(dense("resnet18"), tmp_path / "unsaid")
    assert load_resizing(tmp_path / "unsaid") == Resizing(8, 0, True, "bilinear")


def test_a_pretrained_model_saved_without_data_says_what_its_source_does(tmp_path: Path) -> None:
    spec = replace(small_spec("vit"), resize=Resize(9, False, "lanczos"))
    save(random_model(spec, seed=0, dtype=torch.float32), tmp_path / "model")
    assert load_resizing(tmp_path / "model") == Resizing(8, 9, False, "lanczos")


@pytest.mark.parametrize(
    "params",
    [
        ResNetParams(name="resnet18", width=64),
        vit_params(dim=96, depth=12, heads=10, head_dim=64, mlp_dim=96),
    ],
)
@pytest.mark.parametrize("rank", [None, 1])
def test_file_is_hardly_larger_than_its_parameters(
    params: ResNetParams | ViTParams, rank: int | None, tmp_path: Path
) -> None:
    spec = dense_spec(params, image_size=32, channels=3, classes=10)
    model = random_model(with_factors(spec, rank) if rank else spec, seed=0, dtype=torch.float32)
    save(model, tmp_path / "model")
    assert (tmp_path / "model").stat().st_size <= 4 * parameters(model.spec) + 64 * 1024


@both
@given(place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
@settings(max_examples=150)
def test_one_changed_byte_is_refused(
    family: str, place: float, flip: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = bytearray(saved(family, tmp_path_factory))
    # Half of the examples fall on the header, which is a small part of the file.
    end = 8 + int.from_bytes(content[:8], "little")
    at = int(2 * place * end) if place < 0.5 else end + int((2 * place - 1) * (len(content) - end))
    content[at] ^= flip
    path = tmp_path_factory.getbasetemp() / f"changed-{family}"
    path.write_bytes(content)
    with pytest.raises(UserError, match=path.name):
        load(path)


def saved(family: str, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.getbasetemp() / f"whole-{family}"
    if not path.exists():
        save(slimmed_and_factorised(family), path)
    return path.read_bytes()


def test_foreign_and_shortened_files_are_refused(tmp_path: Path) -> None:
    tensors = {"weight": torch.zeros(3)}
    save(dense("vit"), tmp_path / "whole")
    whole = (tmp_path / "whole").read_bytes()
    np.savez(tmp_path / "numpy.npz", zeros=np.zeros(3))
    torch.save(tensors, tmp_path / "pickle.pt")
    contents = {
        "empty": b"",
        "text": b"not a model",
        "half": whole[: len(whole) // 2],
        "longer": whole + b"\0",
        "plain": safetensors.torch.save(tensors),
        "other": safetensors.torch.save(tensors, metadata={"format": "pt"}),
        "number": safetensors.torch.save(tensors, metadata={"spec": "3"}),
        "list": safetensors.torch.save(tensors, metadata={"spec": "[]"}),
        "null": safetensors.torch.save(tensors, metadata={"spec": '{"model": null}'}),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    for name in (*contents, "numpy.npz", "pickle.pt", "absent"):
        with pytest.raises(UserError, match=name):
            load(tmp_path / name)


@both
def test_spec_that_does_not_match_is_refused(family: str, tmp_path: Path) -> None:
    model, path = factorised(family), tmp_path / "forged"
    plain = asdict(model.spec)
    name = next(iter(model.spec.factors))
    changes: list[tuple[dict[str, Any], str]] = [
        ({"classes": 7}, r"tensor .* is \(4.*\), but the model wants it \(7.*\)"),
        ({"classes": -1}, "spec.classes is -1, but must be a whole number of at least 1"),
        ({"scored": KINDS[family]}, "tensor .* is missing, but the model wants it"),
        ({"blocks": plain["blocks"][:1]}, r"spec\.factors names 'blocks\.1\..*', but the model has no such layer"),
        ({"factors": {}}, "tensor .*, but the model wants it absent"),
        (
            {"factors": {"nothing": {"rank": 1, "bias": False}}},
            "spec.factors names 'nothing', but the model has no such layer",
        ),
        ({"factors": plain["factors"] | {name: {"rank": 4, "bias": False}}}, "tensor .*, but the model wants it"),
        ({"name": "vgg"}, "spec.name is 'vgg', but must be one of vit, resnet18"),
        ({"colour": "red"}, "unknown key spec.colour; allowed here are name, "),
        ({"version": 2}, "spec.version is 2, but must be a whole number from 1 to 1"),
    ]
    for change, sentence in changes:
        write_sealed(path, "spec", plain | change, model.state_dict())
        with pytest.raises(UserError, match=f"^{re.escape(str(path))}: {sentence}") as caught:
            load(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["vit-scored", "vit-factorised", "resnet18-scored", "resnet18-factorised"])
def test_a_spec_without_a_version_is_one_of_version_1_with_the_logits_of_then(name: str) -> None:
    expected = torch.tensor(json.loads((OLD / "logits.json").read_text())[name])
    path = OLD / f"{name}.safetensors"
    model = load(path)
    torch.testing.assert_close(model(PIXELS), expected, rtol=0, atol=1e-6)
    assert "version" not in read_content(path, "spec")
    assert model.spec.version == 1
    assert load_spec(path) == model.spec


def test_half_precision_and_double_precision_survive(tmp_path: Path) -> None:
    for dtype in (torch.bfloat16, torch.float64):
        model = random_model(small_spec("resnet18"), seed=0, dtype=dtype)
        save(model, tmp_path / "model")
        loaded = load(tmp_path / "model")
        assert torch.equal(loaded(random_images(model.spec)), model(random_images(model.spec)))
        assert loaded.mean.dtype == dtype


def test_equal_models_give_equal_bytes_whatever_the_layout(tmp_path: Path) -> None:
    model = dense("resnet18")
    strided = {
        name: tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor
        for name, tensor in model.state_dict().items()
    }
    save(model, tmp_path / "first")
    save(from_state(model.spec, strided), tmp_path / "second")
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
