"""What is exported answers as the model does, to any number of raw images, and is the same bytes every time."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.conftest import ROOT
from tests.models import FAMILIES, both, random_images, random_model, small_spec, with_factors
from vtp.checkpoint import load, save
from vtp.cost import parameters
from vtp.data.dataset import Resizing, Split
from vtp.errors import UserError
from vtp.export import (
    TOLERANCE,
    check,
    onnx_session,
    run_onnx,
    run_program,
    traced,
    write_examples,
    write_onnx,
    write_program,
)
from vtp.models import Model
from vtp.models.vit.spec import BlockSpec, HeadSpec
from vtp.predict import read_image

NAMES = ("cat", "dog", "Käfer", "newt")
EXPORT = """
import sys
from pathlib import Path
import torch
from torch.torch_version import TorchVersion
from vtp.checkpoint import load
from vtp.export import traced, write_onnx, write_program
program = traced(load(sys.argv[1]))
torch.__version__ = TorchVersion(torch.__version__.partition("+")[0] + "+cu999")
write_program(program, sys.argv[2:], Path("again.pt2"))
write_onnx(program, sys.argv[2:], Path("again.onnx"))
"""


def model_of(family: str) -> Model:
    """Of a transformer, the heads have dims of their own, so that every way through the code is exported."""
    spec = small_spec(family)
    if family == "vit":
        blocks = (BlockSpec((HeadSpec(6, 6), HeadSpec(3, 2)), 20, 12), BlockSpec((HeadSpec(4, 6),), 20))
        spec = replace(spec, blocks=blocks)
    return random_model(with_factors(spec, 3), seed=0, dtype=torch.float32)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the models of both families and what they were exported to."""
    folder = tmp_path_factory.mktemp("exported")
    for family in FAMILIES:
        model = model_of(family)
        save(model, folder / family)
        program = traced(model)
        write_program(program, NAMES, folder / f"{family}.pt2")
        write_onnx(program, NAMES, folder / f"{family}.onnx")
    return folder


@both
@pytest.mark.parametrize("count", [1, 2, 7, 251])
def test_any_number_of_images_gets_the_models_answers(family: str, count: int, exported: Path) -> None:
    model, images = load(exported / family), random_images(small_spec(family), count)
    for path, run in ((exported / f"{family}.onnx", run_onnx), (exported / f"{family}.pt2", run_program)):
        found = run(path, [images])
        assert check(path, found, model, images.split(3)) < TOLERANCE
        assert found.sum(1) == pytest.approx(torch.ones(count))
        assert torch.equal(found.argmax(1), model(images).argmax(1))


@both
def test_the_files_say_what_goes_in_and_comes_out(family: str, exported: Path) -> None:
    session = onnx_session(exported / f"{family}.onnx")
    (given,), (answer,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, given.shape) == ("images", "tensor(uint8)", ["batch", 3, 8, 8])
    assert (answer.name, answer.type, answer.shape[1]) == ("probabilities", "tensor(float)", 4)
    assert tuple(json.loads(session.get_modelmeta().custom_metadata_map["class_names"])) == NAMES
    extra = {"class_names": ""}
    torch.export.load(str(exported / f"{family}.pt2"), extra_files=extra)
    assert tuple(json.loads(extra["class_names"])) == NAMES


def test_another_build_of_pytorch_in_another_folder_writes_the_same_bytes(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "vtp").symlink_to(ROOT / "vtp")
    command = [sys.executable, "-c", EXPORT, str(exported / "vit"), *NAMES]
    subprocess.run(command, cwd=tmp_path, check=True)
    for ending in ("onnx", "pt2"):
        assert (tmp_path / f"again.{ending}").read_bytes() == (exported / f"vit.{ending}").read_bytes()


@both
def test_no_path_of_this_machine_is_in_the_files(family: str, exported: Path) -> None:
    for ending in ("onnx", "pt2"):
        content = (exported / f"{family}.{ending}").read_bytes()
        assert str(ROOT).encode() not in content
        assert b".py" not in content


def test_a_file_of_onnx_is_hardly_larger_than_its_parameters(tmp_path: Path) -> None:
    block = BlockSpec((HeadSpec(32, 32),) * 4, 512)
    spec = replace(small_spec("vit"), dim=128, head_dim=32, blocks=(block,) * 6)
    model = random_model(spec, seed=0, dtype=torch.float32)
    write_onnx(traced(model), NAMES, tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").stat().st_size <= 1.02 * 4 * parameters(spec)


@pytest.mark.parametrize("channels", [1, 3])
def test_examples_are_the_first_images_of_their_classes_as_they_are(channels: int, tmp_path: Path) -> None:
    images = torch.randint(0, 256, (40, channels, 9, 9), dtype=torch.uint8)
    labels = torch.tensor([3, 0, 11, 3] + [5, 12] * 18)
    write_examples(Split(images, labels), tmp_path / "examples")
    expected = {"0.png": 1, "3.png": 0, "5.png": 4}
    assert sorted(path.name for path in (tmp_path / "examples").iterdir()) == sorted(expected)
    for name, index in expected.items():
        found = read_image(tmp_path / "examples" / name, channels, Resizing(9))
        assert torch.equal(found, images[index])


def test_a_file_that_answers_otherwise_is_a_sentence(exported: Path) -> None:
    images = random_images(small_spec("vit"))
    other = random_model(load(exported / "vit").spec, seed=1, dtype=torch.float32)
    path = exported / "vit.onnx"
    with pytest.raises(UserError, match=r"vit.onnx: its log-probabilities differ from the model's by .* allowed"):
        check(path, run_onnx(path, [images]), other, [images])
