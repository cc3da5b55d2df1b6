"""A vision transformer that timm has trained on the digits goes through the stages, without DVC."""

import copy
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

import vtp.data.sources.torchvision_shim  # noqa: F401  (before timm, which imports torchvision)
from stages.paths import DATASET, METRICS, SOURCE, WEIGHTS, history_path, model_path, report_path
from tests.params import VIT, parse
from vtp.checkpoint import load
from vtp.data.dataset import Split, load_dataset
from vtp.data.sources import fetch
from vtp.errors import UserError
from vtp.measure import accuracy
from vtp.models import Facts, start

STAGES = "source, fetch, baseline, sparsify, prune, calibrate, decompose svd, finetune, evaluate, report"
EPOCHS = 12
CONTENT: dict[str, Any] = copy.deepcopy(VIT) | {
    "methods": ["svd"],
    "calibrate": VIT["calibrate"] | {"images": 500},
}
CONTENT["model"] = {"name": "pretrained", "source": "timm/trained", "weights": None}
CONTENT["model"] |= {"patch_size": None, "patch_dropout": 0.0}
CONTENT["data"] |= {"squash": False, "interpolation": "bicubic"}
CONTENT["baseline"]["epochs"], CONTENT["sparsify"]["epochs"], CONTENT["finetune"]["epochs"] = 0, 1, 1
CONTENT["sparsify"]["learning_rate"] = 0.0002
CONTENT["prune"]["rate"], CONTENT["decompose"]["keep"] = 0.1, 0.5


def tiny() -> Any:
    torch.manual_seed(0)
    small = {"img_size": 8, "patch_size": 4, "embed_dim": 64, "depth": 2, "num_heads": 4, "in_chans": 1}
    return import_module("timm").create_model("vit_tiny_patch16_224", num_classes=10, **small)


def as_timm_wants(split: Split) -> Tensor:
    """The images, brought to the model by timm's own transform."""
    data: Any = import_module("timm.data")
    half: dict[str, Any] = {"mean": (0.5,), "std": (0.5,)}
    transform = data.create_transform((1, 8, 8), crop_pct=0.9, interpolation="bicubic", **half)  # as for vit_tiny
    return torch.stack([transform(Image.fromarray(image[0].numpy())) for image in split.images])


def trained(split: Split) -> Any:
    """A model of timm, trained by its own forward pass."""
    module = tiny().train()
    images = as_timm_wants(split)
    steps = EPOCHS * -(-len(split) // 64)
    optimizer = torch.optim.AdamW(module.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.002, total_steps=steps)
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(split)).split(64):
            loss = torch.nn.functional.cross_entropy(module(images[chosen]), split.labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return module.eval()


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The trained model of timm, beside which, in the current folder, the stages have run."""
    folder = tmp_path_factory.mktemp("pretrained")
    (folder / "params.yaml").write_text(yaml.dump(CONTENT))
    params = parse(CONTENT)
    module = trained(fetch(params.data, params.seed, folder).train)
    import_module("timm.models").save_for_hf(module, str(folder / "trained"), safe_serialization=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in STAGES.split(", "):
            patch.setattr("sys.argv", command.split())
            import_module(f"stages.{command.split()[0]}").main()
        yield module


def figures(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_the_baseline_is_the_model_of_timm(module: Any) -> None:
    split = load_dataset(DATASET).validation
    with torch.no_grad():
        wanted = module(as_timm_wants(split))
        found = load(model_path("baseline"))(split.images)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    right = float((wanted.argmax(1) == split.labels).double().mean())
    assert right > 0.85
    (record,) = figures(history_path("baseline"))
    assert (record["epoch"], record["validation_accuracy"]) == (0, pytest.approx(right, abs=1e-12))
    assert figures(report_path("prune"))["validation_accuracy"]["dense"] == pytest.approx(right, abs=1e-12)


@pytest.mark.usefixtures("module")
def test_with_half_of_its_cost_it_loses_at_most_a_point_before_fine_tuning() -> None:
    dataset = load_dataset(DATASET)
    images, labels = (
        torch.cat([getattr(split, part) for split in (dataset.validation, dataset.test)])
        for part in ("images", "labels")
    )
    dense, small = (
        accuracy(load(model_path(stage)), Split(images, labels)) for stage in ("baseline", "decompose/svd")
    )
    assert small >= dense - 0.01
    units = figures(report_path("decompose/svd"))["units"]
    assert sum(unit["parameters"] for unit in units) <= 0.5 * sum(unit["parameters_dense"] for unit in units)


@pytest.mark.usefixtures("module")
def test_what_follows_is_as_for_a_model_of_our_own() -> None:
    metrics, table = figures(METRICS), Path("out/report/table.md").read_text(encoding="utf-8")
    assert metrics["parameters"] < 0.55 * metrics["parameters_dense"]
    assert metrics["validation_accuracy"] >= figures(report_path("decompose/svd"))["validation_accuracy"]
    assert "| svd " in table
    assert Path("out/report/curves.png").stat().st_size > 1000
    assert load(model_path("finetune")).spec.query_bias  # type: ignore[attr-defined]


@pytest.mark.usefixtures("module")
def test_a_change_of_a_model_that_params_name_is_seen_apart_from_one_of_the_images(tmp_path: Path) -> None:
    shutil.copytree("trained", tmp_path / "trained")
    other = {"model": CONTENT["model"] | {"weights": "w.pth"}, "baseline": {"teacher": "t.safetensors"}}
    (tmp_path / "params.yaml").write_text(yaml.dump(CONTENT | other))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        seen = []
        for change in (None, "w.pth", "trained/config.json", "t.safetensors"):
            if change:
                (tmp_path / change).write_bytes(b"other")
            import_module("stages.source").main()
            seen.append((SOURCE.read_text(), WEIGHTS.read_text()))
    assert len({source for source, _ in seen}) == 1
    assert len({weights for _, weights in seen}) == len(seen)


def facts(**changes: Any) -> Facts:
    usual: dict[str, Any] = {"image_size": 8, "channels": 1, "classes": 10, "mean": (0.0,), "std": (1.0,)}
    return Facts(**usual | {"resize": 0, "squash": False, "interpolation": "bicubic"} | changes)


MODEL = parse(CONTENT).model


def test_a_head_for_other_classes_is_new_and_said_in_a_line(module: Any, capsys: Any) -> None:
    model = start(MODEL, facts(), 0, Path.cwd())
    assert capsys.readouterr().out == ""
    model = start(MODEL, facts(classes=7), 0, Path.cwd())
    line = "timm/trained: it has no head for 7 classes, so it gets a new one, which knows nothing before "
    assert capsys.readouterr().out == f"{line}baseline.epochs of training\n"
    assert model.spec.classes == 7
    assert not model(torch.full((2, 1, 8, 8), 9)).any()


def test_paths_start_at_the_root_and_a_file_of_weights_wins(module: Any, tmp_path: Path) -> None:
    other = {name: 2 * tensor for name, tensor in module.state_dict().items()}
    save_file(other, tmp_path / "twice.safetensors")
    shutil.copytree("trained", tmp_path / "trained")
    model, twice = (
        start(replace(MODEL, weights=weights), facts(), 0, tmp_path) for weights in (None, "twice.safetensors")
    )
    assert torch.equal(twice.get_parameter("head.weight"), 2 * model.get_parameter("head.weight"))
    assert torch.equal(model.get_parameter("head.weight"), module.head.weight)


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"image_size": 16, "squash": True, "interpolation": "bilinear"},
            "params.yaml: data.image_size: 16, data.squash: true, data.interpolation: bilinear, "
            "but timm/trained was trained on images with data.image_size: 8, data.squash: false, "
            "data.interpolation: bicubic; model.patch_size, in pixels, resamples it for images of another size",
        ),
        ({"resize": 9}, "params.yaml: data.resize: 9, but timm/trained was trained on images with data.resize: 0"),
        (
            {"channels": 3},
            "model.source is timm/trained, for images of 1 channels, but those of the data have 3",
        ),
    ],
)
def test_images_of_another_kind_are_refused_with_the_keys_to_set(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        start(MODEL, facts(**changes), 0, Path.cwd())
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("source", "weights", "words"),
    [
        ("timm/trained", "nothing.pth", "nothing.pth: no such file of weights"),
        ("timm/deit_tiny_patch16_224", "trained/model.safetensors", "but the model wants it"),
        ("timm/no_such", None, "timm has no model of that name (timm.list_models), and there is no such folder"),
        ("timm/vit_tiny_patch16_18x2_224", None, "timm has no"),
        ("timm/out", None, "no weights in this folder: neither model.safetensors nor pytorch_model.bin"),
        ("timm/out/baseline", None, "config.json: missing, or does not name an architecture of timm"),
    ],
)
@pytest.mark.usefixtures("module")
def test_weights_that_cannot_be_had_are_a_sentence(source: str, weights: str | None, words: str) -> None:
    with pytest.raises(UserError) as caught:
        start(replace(MODEL, source=source, weights=weights), facts(), 0, Path.cwd())
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_library_that_is_not_installed_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(
        UserError, match=r"timm is not installed; make tested, or pip install '\.\[pretrained\]', brings it"
    ):
        start(MODEL, facts(), 0, Path.cwd())


@pytest.mark.parametrize("source", ["timm", "timm/", "keras/vit", ""])
def test_a_source_without_a_library_is_refused_before_any_work(source: str) -> None:
    with pytest.raises(UserError, match=r"model\.source is .*, but must be timm/NAME-or-PATH, torchvision/NAME"):
        parse(CONTENT | {"model": CONTENT["model"] | {"source": source}})


def test_an_image_is_resized_to_no_less_than_what_is_cropped() -> None:
    with pytest.raises(UserError, match=r"data\.resize is 7, but must be 0 or at least data\.image_size"):
        parse(CONTENT | {"data": CONTENT["data"] | {"resize": 7}})
    parse(CONTENT | {"data": CONTENT["data"] | {"resize": 8}})
