"""ResNet-18 through the same stages, without DVC."""

import copy
import json
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT
from tests.params import RESNET
from vtp.checkpoint import load
from vtp.cost import parameters
from vtp.models import factorisable
from vtp.models.resnet.spec import ResNetSpec

pytestmark = pytest.mark.slow

METHODS = ("none", "svd", "lu")
EPOCHS = {"baseline": 6, "sparsify": 2, "finetune": 2}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder, the current one, in which every stage has run for a ResNet-18 of width 8."""
    folder = tmp_path_factory.mktemp("resnet")
    content = copy.deepcopy(RESNET) | {"methods": list(METHODS)}
    content["model"]["width"] = 8
    for stage, epochs in EPOCHS.items():
        content[stage]["epochs"] = epochs
    (folder / "params.yaml").write_text(yaml.dump(content))
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    commands = [[name, method] if "matrix" in stages[name] else [name] for name in stages for method in METHODS]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in dict.fromkeys(map(tuple, commands)):
            patch.setattr("sys.argv", command)
            import_module(f"stages.{command[0]}").main()
        yield folder


def test_each_step_is_smaller_and_still_classifies(project: Path) -> None:
    models = {
        step: load(project / "out" / step / "model.safetensors")
        for step in ("baseline", "prune", "decompose/svd", "finetune")
    }
    sizes = [parameters(model.spec) for model in models.values()]
    assert sizes[0] > sizes[1] > sizes[2] == sizes[3]
    assert all(isinstance(model.spec, ResNetSpec) for model in models.values())
    metrics = json.loads((project / "metrics.json").read_text())
    assert metrics["parameters"] == sizes[3]
    assert min(metrics["test_accuracy"], metrics["test_accuracy_pruned"]) > 0.9


def test_every_method_factorises_convolutions_and_has_a_row(project: Path) -> None:
    table = (project / "out" / "report" / "table.md").read_text()
    assert all(f"| {method} " in table for method in METHODS)
    for method in METHODS[1:]:
        report = json.loads((project / "out" / "decompose" / method / "report.json").read_text())
        names = {unit["unit"] for unit in report["units"] if unit["rank"] is not None}
        assert any(name.endswith("conv2") for name in names)
        assert names <= set(factorisable(load(project / "out" / "prune" / "model.safetensors")))
        left, whole = (sum(unit[size] for unit in report["units"]) for size in ("parameters", "parameters_dense"))
        assert left == pytest.approx(RESNET["decompose"]["keep"] * whole, rel=0.01)
