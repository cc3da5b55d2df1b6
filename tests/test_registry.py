"""The MLflow model of a run answers as the checkpoint does, without this project; one version an experiment."""

import io
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.models import random_model
from tests.test_tracking import SVD, client
from tests.trained import PARAMS, digits
from vtp.export import traced, write_examples, write_onnx
from vtp.models import Model, dense_spec
from vtp.tracking import NAME_TAG, SETTINGS, Experiment, publish, tracking_uri
from vtp.tracking.registry import registered_name

# MLflow's own tables use what sqlalchemy has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")

ANSWER = """
import json, sys
import mlflow, numpy
images = numpy.array(json.loads(sys.argv[2]), numpy.uint8)
print(json.dumps(mlflow.pyfunc.load_model(sys.argv[1]).predict({"images": images})["probabilities"].tolist()))
assert not [name for name in sys.modules if name.split(".")[0] in ("vtp", "torch")]
"""


@cache
def model() -> Model:
    spec = dense_spec(PARAMS.model, image_size=8, channels=1, classes=10)
    return random_model(spec, seed=0, dtype=torch.float32)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """An experiment that has exported a model of digits."""
    folder = tmp_path_factory.mktemp("exported")
    write_onnx(traced(model()), digits().class_names, folder / "model.onnx")
    write_examples(digits().test, folder / "examples")
    files = [path for path in folder.rglob("*") if path.is_file()]
    return replace(SVD, exported={str(path.relative_to(folder)): path.read_bytes() for path in files})


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, experiment: Experiment) -> Path:
    """A folder with a ledger to which the experiment has been published."""
    os.environ.update(SETTINGS)
    folder = tmp_path_factory.mktemp("registry")
    publish([experiment], folder)
    return folder


def versions(root: Path, name: str = "digits") -> list[Any]:
    return sorted(client(root).search_model_versions(f"name = '{name}'"), key=lambda version: version.version)


def folder_of(root: Path, version: Any) -> str:
    return str(client(root).download_artifacts(version.run_id, "model"))


def probabilities(images: torch.Tensor) -> Any:
    with torch.no_grad():
        return model()(images).softmax(1).numpy()


def test_the_model_says_what_goes_in_and_comes_out(root: Path) -> None:
    from mlflow.models import Model as Saved

    saved = Saved.load(folder_of(root, versions(root)[0]))
    assert saved.signature.inputs.to_dict() == [
        {"name": "images", "type": "tensor", "tensor-spec": {"dtype": "uint8", "shape": (-1, 1, 8, 8)}}
    ]
    assert saved.signature.outputs.to_dict() == [
        {"name": "probabilities", "type": "tensor", "tensor-spec": {"dtype": "float32", "shape": (-1, 10)}}
    ]
    assert saved.metadata == {"class_names": list(digits().class_names)}


def test_its_input_example_is_a_real_image(root: Path) -> None:
    from mlflow.models import Model as Saved

    folder = folder_of(root, versions(root)[0])
    example = Saved.load(folder).load_input_example(folder)["images"]
    first = digits().test.labels.tolist().index(0)
    assert np.array_equal(example, digits().test.images[first : first + 1])


def test_its_requirements_are_pinned_and_are_not_this_project(root: Path) -> None:
    lines = Path(folder_of(root, versions(root)[0]), "requirements.txt").read_text().split()
    assert sorted(line.partition("==")[0] for line in lines) == ["mlflow", "numpy", "onnx", "onnxruntime"]
    assert all("==" in line for line in lines)


def test_another_process_without_this_project_gets_the_checkpoints_answers(root: Path, tmp_path: Path) -> None:
    images = digits().test.images[:1]
    command = [sys.executable, "-c", ANSWER, "models:/digits/1", json.dumps(images.tolist())]
    environment = os.environ | {"MLFLOW_TRACKING_URI": tracking_uri(root)}
    answer = subprocess.run(command, cwd=tmp_path, env=environment, check=True, stdout=subprocess.PIPE).stdout
    assert np.allclose(json.loads(answer), probabilities(images), atol=1e-5)


def test_publishing_again_adds_no_version(root: Path, experiment: Experiment) -> None:
    before = versions(root)
    assert publish([experiment], root) == 0
    assert versions(root) == before
    assert [(version.version, version.description) for version in before] == [(1, SVD.title)]


def test_every_experiment_has_one_version_even_if_its_run_was_lost(root: Path, experiment: Experiment) -> None:
    svd = replace(experiment, params={**SVD.params, "data.name": "cifar10"})
    qr = replace(svd, name="bold-wren", time=SVD.time + 100, params={**svd.params, "decomp": "qr"})

    def names() -> list[str]:
        return [client(root).get_run(found.run_id).data.tags[NAME_TAG] for found in versions(root, "cifar10")]

    publish([qr, svd], root)
    assert names() == ["shy-moth", "bold-wren"]
    client(root).delete_run(versions(root, "cifar10")[0].run_id)
    assert publish([qr, svd], root) == 1
    assert names() == ["bold-wren", "shy-moth"]


def test_an_experiment_that_has_exported_nothing_has_a_run_and_no_version(root: Path) -> None:
    assert publish([replace(SVD, params={**SVD.params, "data.name": "cifar100"})], root) == 1
    assert versions(root, "cifar100") == []


@pytest.mark.parametrize(
    ("params", "name"),
    [
        ({"data.name": "cifar10", "data.path": "cifar-10-python.tar.gz"}, "cifar10"),
        ({"data.name": "imagefolder", "data.path": "data/flowers"}, "flowers"),
        ({"data.name": "imagefolder", "data.path": "/data/flowers.v2.tar.xz"}, "flowers.v2"),
        ({"data.name": "imagefolder", "data.path": "my:flowers.ZIP"}, "my-flowers"),
        ({"data.name": "imagefolder", "data.path": '/data/Ann\'s "best"'}, "Ann-s -best-"),
        ({"data.name": "imagefolder", "data.path": ".."}, "images"),
    ],
)
def test_the_name_of_a_model_is_that_of_the_data(params: dict[str, str], name: str, root: Path) -> None:
    assert registered_name(params) == name
    client(root).create_registered_model(f"{name} of the test")
    assert versions(root, f"{name} of the test") == []


@contextmanager
def serving(root: Path, name: str) -> Iterator[str]:
    """The address at which MLflow's own command serves the model."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = f"{sys.executable} -m mlflow models serve -m {name} --env-manager local --port {port}".split()
    environment = os.environ | {"MLFLOW_TRACKING_URI": tracking_uri(root)}
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        while not answers(f"http://127.0.0.1:{port}/ping"):
            assert process.poll() is None
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, 15)
        process.wait()


def answers(address: str) -> bool:
    try:
        return bool(urllib.request.urlopen(address).status == 200)
    except OSError:
        return False


@pytest.mark.slow
def test_a_served_model_gives_a_picture_the_checkpoints_probabilities(root: Path, experiment: Experiment) -> None:
    with Image.open(io.BytesIO(experiment.exported["examples/3.png"])) as picture:
        image = np.array(picture)[None, None]
    with serving(root, "models:/digits/1") as address:
        request = urllib.request.Request(
            f"{address}/invocations",
            data=json.dumps({"inputs": {"images": image.tolist()}}).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as answer:
            found = json.load(answer)["predictions"]["probabilities"]
    assert np.allclose(found, probabilities(torch.from_numpy(image)), atol=1e-5)
