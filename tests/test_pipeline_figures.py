"""The figures that stages write, computed anew by other means: a vision transformer of the default shape."""

import json
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

from stages.paths import DATASET, METRICS, model_path, report_path
from tests.params import VIT
from vtp.calibration.watching import calibration_images
from vtp.checkpoint import load
from vtp.data.dataset import load_dataset
from vtp.models import Model, factorisable

STAGES = ("fetch", "baseline", "sparsify", "prune", "calibrate", "decompose svd", "finetune", "evaluate")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder, the current one, in which the stages have run for a few epochs."""
    folder = tmp_path_factory.mktemp("figures")
    content = VIT | {"methods": ["svd"], "calibrate": VIT["calibrate"] | {"images": 300}}
    content |= {name: content[name] | {"epochs": epochs} for name, epochs in zip(STAGES[1:3], (8, 3), strict=True)}
    content |= {"finetune": content["finetune"] | {"epochs": 2}}
    content |= {"decompose": content["decompose"] | {"correction": "none"}}  # units are reported before it
    (folder / "params.yaml").write_text(yaml.dump(content))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for stage in STAGES:
            patch.setattr("sys.argv", stage.split())
            import_module(f"stages.{stage.split()[0]}").main()
        yield folder


def figures(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def share_right(model: Model, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Accuracy, one image at a time."""
    with torch.no_grad():
        right = [
            int(model(image[None]).argmax()) == int(label) for image, label in zip(images, labels, strict=True)
        ]
    return sum(right) / len(right)


@pytest.mark.usefixtures("project")
def test_metrics_are_those_of_the_models_on_the_images() -> None:
    metrics, dataset = figures(METRICS), load_dataset(DATASET)
    steps = {"_dense": "baseline", "_pruned": "prune", "_factorised": "decompose/svd", "": "finetune"}
    for step, stage in steps.items():
        model = load(model_path(stage))
        found = share_right(model, dataset.test.images, dataset.test.labels)
        assert metrics[f"test_accuracy{step}"] == pytest.approx(found, abs=1e-12)
    assert metrics["test_images"] == len(dataset.test.labels)
    assert metrics["validation_images"] == len(dataset.validation.labels)
    found = share_right(model, dataset.validation.images, dataset.validation.labels)
    assert metrics["validation_accuracy"] == pytest.approx(found, abs=1e-12)


@pytest.mark.usefixtures("project")
def test_costs_are_those_of_the_files() -> None:
    metrics = figures(METRICS)
    for step, stage in {"": "finetune", "_dense": "baseline"}.items():
        model = load(model_path(stage))
        assert metrics[f"parameters{step}"] == sum(weight.numel() for weight in model.parameters())
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.zeros(1, 1, 8, 8))
        assert metrics[f"macs{step}"] == counter.get_total_flops() // 2


@pytest.mark.usefixtures("project")
def test_each_unit_is_what_its_report_says() -> None:
    slim, factorised, dataset = load(model_path("prune")), load(model_path("decompose/svd")), load_dataset(DATASET)
    images = calibration_images(dataset.train.images, 300, seed=0)
    outputs: dict[str, list[torch.Tensor]] = {}
    layers = factorisable(slim)
    for name, layer in layers.items():
        layer.register_forward_hook(
            lambda layer, given, output, name=name: outputs.update(
                {name: [given[0].flatten(0, -2).double(), output.flatten(0, -2).double()]}
            )
        )
    with torch.no_grad():
        slim(images)
    units = {unit["unit"]: unit for unit in figures(report_path("decompose/svd"))["units"]}
    assert units.keys() == layers.keys()
    state = factorised.state_dict()
    for name, unit in units.items():
        weight = layers[name].weight.detach().double()
        assert unit["shape"] == list(weight.shape)
        assert unit["parameters_dense"] == weight.numel()
        if unit["rank"] is None:
            assert unit["output_error"] == unit["weight_error"] == 0
            continue
        pair = factorised.get_submodule(name)
        left, right = (pair.get_submodule(side).weight.detach().double() for side in ("left", "right"))  # type: ignore
        assert left.shape[1] == right.shape[0] == unit["rank"]
        gained = layers[name].bias is None
        assert unit["parameters"] == left.numel() + right.numel() - left.shape[1] ** 2 + gained * len(left)
        assert unit["weight_error"] == pytest.approx(
            float((weight - left @ right).norm() / weight.norm()), rel=1e-4
        )
        x, y = outputs[name]
        wrong, whole = x @ (weight - left @ right).T, y
        error = (wrong - wrong.mean(0)).norm() / (whole - whole.mean(0)).norm()
        assert unit["output_error"] == pytest.approx(float(error), rel=1e-3)
        shift = (state[f"{name}.left.bias"] + (x @ (left @ right).T).mean(0)) - y.mean(0)
        assert float(shift.abs().max()) < 1e-4  # the mean of what the layer gives has not moved
