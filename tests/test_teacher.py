"""What the dense model learns of a teacher that the user names, and which one is refused."""

import copy
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from stages.baseline import load_teacher
from stages.paths import DATASET, model_path
from tests.models import both, random_model, small_spec
from tests.params import VIT, parse
from vtp.checkpoint import load, save
from vtp.data.dataset import Dataset, load_dataset
from vtp.errors import UserError
from vtp.measure import accuracy
from vtp.models import Model

CONTENT: dict[str, Any] = copy.deepcopy(VIT)
CONTENT["baseline"] |= {"epochs": 8, "teacher": "../teacher.safetensors", "distillation": 1.0}
NAMES = tuple("0123456789")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the digits and the default model after a short training."""
    folder = tmp_path_factory.mktemp("digits") / "project"
    folder.mkdir()
    baseline(folder, CONTENT["baseline"] | {"teacher": None}, "fetch", "baseline")
    return folder


def baseline(folder: Path, section: dict[str, Any], *stages: str) -> None:
    (folder / "params.yaml").write_text(yaml.dump(CONTENT | {"baseline": section}))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for stage in stages:
            import_module(f"stages.{stage}").main()


def dataset(folder: Path) -> Dataset:
    return load_dataset(folder / DATASET)


def test_a_dense_model_gives_the_answers_of_its_teacher(digits: Path) -> None:
    """A teacher that takes each 3 for a 5 and each 5 for a 3: what it teaches of them is not in the labels."""
    teacher, images = load(digits / model_path("baseline")), dataset(digits).validation
    assert accuracy(teacher, images) > 0.8
    swapped = torch.arange(10)
    swapped[[3, 5]] = swapped[[5, 3]]
    state = teacher.state_dict()
    teacher.load_state_dict(state | {name: state[name][swapped] for name in ("head.weight", "head.bias")})
    save(teacher, digits.parent / "teacher.safetensors", NAMES)
    baseline(digits, CONTENT["baseline"], "baseline")
    student = load(digits / model_path("baseline"))
    assert accuracy(student, replace(images, labels=swapped[images.labels])) > 0.8


@pytest.mark.parametrize("changes", [{"teacher": None}, {"distillation": 0.0, "teacher": "no such file"}])
def test_without_a_teacher_no_file_is_read(changes: dict[str, Any], digits: Path) -> None:
    params = parse(CONTENT | {"baseline": CONTENT["baseline"] | changes})
    assert load_teacher(params, dataset(digits), torch.device("cpu")) is None


def found(path: Path, images: Dataset) -> Model | None:
    params = parse(CONTENT | {"baseline": CONTENT["baseline"] | {"teacher": str(path)}})
    return load_teacher(params, images, torch.device("cpu"))


@both
def test_a_teacher_may_be_of_any_family(family: str, digits: Path, tmp_path: Path) -> None:
    model = random_model(small_spec(family, channels=1, classes=10), 0, torch.float32)
    save(model, tmp_path / "teacher", NAMES)
    teacher = found(tmp_path / "teacher", dataset(digits))
    assert teacher is not None
    assert teacher.spec == model.spec


@pytest.mark.parametrize(
    ("changes", "names", "sentence"),
    [
        (
            {"classes": 9},
            NAMES[:9],
            "made for images of 1×8×8 and 9 classes, but out/dataset.safetensors has 1×8×8 and 10 classes; "
            "name another model in baseline.teacher",
        ),
        ({}, NAMES[::-1], "its class 0 is '9', but must be '0', as in out/dataset.safetensors"),
    ],
)
def test_a_teacher_of_other_classes_is_refused(
    changes: dict[str, Any], names: tuple[str, ...], sentence: str, digits: Path, tmp_path: Path
) -> None:
    spec = small_spec("vit", **{"channels": 1, "classes": 10} | changes)
    save(random_model(spec, 0, torch.float32), tmp_path / "teacher", names)
    with pytest.raises(UserError) as caught:
        found(tmp_path / "teacher", dataset(digits))
    assert str(caught.value) == f"{tmp_path / 'teacher'}: {sentence}"


def test_a_teacher_that_is_not_there_is_a_sentence(digits: Path, tmp_path: Path) -> None:
    for path, words in {
        tmp_path: f"is '{tmp_path}', but {tmp_path} is no file",
        Path("~nobody-of-that-name/x"): "names '~nobody-of-that-name/x', but there is no such user",
    }.items():
        with pytest.raises(UserError) as caught:
            found(path, dataset(digits))
        assert str(caught.value) == f"params.yaml: baseline.teacher {words}"
