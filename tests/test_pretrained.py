"""Vision transformers of other libraries: the same logits, and a head for other classes."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import vtp.data.sources.torchvision_shim  # noqa: F401  (before what imports torchvision)
from tests.pretrained import FOREIGN, IMAGENET, clip, deit, hf_vit, images_of, of_timm, refused
from vtp.errors import UserError
from vtp.models import spec_from_plain, spec_to_plain
from vtp.models.vit.pretrained import LIBRARIES, Preprocessing, from_module, load_source
from vtp.models.vit.spec import BlockSpec, HeadSpec, Resize, ViTSpec
from vtp.sealed import digest

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
DEFAULT = ViTSpec(
    name="vit",
    image_size=16,
    channels=3,
    classes=4,
    patch_size=8,
    dim=8,
    head_dim=4,
    blocks=(BlockSpec((HeadSpec(4, 4),), 8),),
    dropout=0.0,
)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", FOREIGN)
def test_logits_on_raw_pixels_are_those_of_the_library(name: str, dtype: torch.dtype) -> None:
    module = FOREIGN[name].module(dtype)
    before = digest(module.state_dict(), None)
    model = from_module(module.train())
    assert module.training
    assert not model.training
    assert digest(module.state_dict(), None) == before
    images = images_of(model.spec)
    found, wanted = model(images), FOREIGN[name].logits(module.eval(), images)
    assert found.dtype == wanted.dtype == dtype
    torch.testing.assert_close(found, wanted, rtol=0, atol=TOLERANCE[dtype])
    assert wanted.std() > 0.1  # random, not one number for all


def test_weights_are_copies_and_do_not_share_memory() -> None:
    module = FOREIGN["timm deit"].module()
    model = from_module(module)
    before = digest(model.state_dict(), None)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    assert digest(model.state_dict(), None) == before


@pytest.mark.parametrize("name", [name for name in FOREIGN if name.startswith("transformers")])
def test_both_layouts_of_transformers(name: str, tmp_path: Path) -> None:
    module: Any = FOREIGN[name].module(torch.float32)
    module.save_pretrained(tmp_path)
    save_file(module.state_dict(), tmp_path / "live.bin.safetensors")
    live = module.state_dict().keys()
    assert (load_file(tmp_path / "model.safetensors").keys() == live) == ("CLIP" in name)
    wanted = digest(from_module(module).state_dict(), None)
    found = load_source(f"transformers/{tmp_path}", tmp_path / "live.bin.safetensors")
    assert digest(found.state_dict(), None) == wanted
    (tmp_path / "live.bin.safetensors").unlink()
    assert digest(load_source(f"transformers/{tmp_path}").state_dict(), None) == wanted


@pytest.mark.parametrize("file", ["weights.safetensors", "weights.pth"])
def test_a_file_for_timm_has_the_say_on_classes_and_image_size(file: str, tmp_path: Path) -> None:
    configuration = of_timm("deit_tiny_patch16_224", IMAGENET, img_size=32, patch_size=16, embed_dim=192, depth=12)
    module = configuration.module(torch.float32)
    if file.endswith(".pth"):
        torch.save({"model": module.state_dict(), "epoch": 3}, tmp_path / file)
    else:
        save_file(module.state_dict(), tmp_path / file)
    model = load_source("timm/deit_tiny_patch16_224", tmp_path / file)
    assert (model.spec.image_size, model.spec.classes) == (32, 5)
    assert digest(model.state_dict(), None) == digest(from_module(module).state_dict(), None)


def test_a_file_for_timm_has_the_say_on_whether_patches_are_pooled(tmp_path: Path) -> None:
    small = {"img_size": 32, "patch_size": 16, "embed_dim": 192, "depth": 12}
    configuration = of_timm("deit_tiny_patch16_224", IMAGENET, **small, global_pool="avg")
    module = configuration.module(torch.float32)
    save_file(module.state_dict(), tmp_path / "pooled.safetensors")
    model = load_source("timm/deit_tiny_patch16_224", tmp_path / "pooled.safetensors")
    assert digest(model.state_dict(), None) == digest(from_module(module).state_dict(), None)
    assert model.spec == from_module(module).spec


@pytest.mark.parametrize("source", ["timm/deit_tiny_patch16_224", "timm/deit_tiny_distilled_patch16_224"])
def test_a_file_without_a_head_gets_one_for_the_classes(source: str, tmp_path: Path) -> None:
    small = {"img_size": 32, "patch_size": 16, "embed_dim": 192, "depth": 12}
    module = of_timm(source.removeprefix("timm/"), IMAGENET, **small).module(torch.float32)
    state = {name: tensor for name, tensor in module.state_dict().items() if not name.startswith("head")}
    save_file(state, tmp_path / "backbone.safetensors")
    found = load_source(source, tmp_path / "backbone.safetensors", classes=9)
    assert digest(found.state_dict(), None) == digest(from_module(module, classes=9).state_dict(), None)
    with pytest.raises(UserError, match=r"tensor head(_dist)?.bias is missing"):
        load_source(source, tmp_path / "backbone.safetensors")


def test_a_file_for_torchvision_may_have_the_older_names(tmp_path: Path) -> None:
    from torchvision.models import vit_b_32

    with torch.device("meta"):
        module = vit_b_32(num_classes=6, image_size=64, representation_size=10)
    module = module.to_empty(device="cpu").eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.uniform_(-0.05, 0.05, generator=generator)
    state = {
        name.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): tensor
        for name, tensor in module.state_dict().items()
    }
    save_file(state, tmp_path / "old.safetensors")
    model = load_source("torchvision/vit_b_32", tmp_path / "old.safetensors")
    images = images_of(model.spec, 2)
    wanted = FOREIGN["torchvision, representation"].logits(module, images)
    torch.testing.assert_close(model(images), wanted, rtol=0, atol=1e-5)


def test_preprocessing_is_that_of_the_source(tmp_path: Path) -> None:
    module = deit(img_size=224, patch_size=16).module()
    model = from_module(module)
    assert model.spec.resize == Resize(248, False, "bicubic")
    assert model.mean.tolist() == [255 * value for value in IMAGENET[0]]
    assert model.std.tolist() == [255 * value for value in IMAGENET[1]]
    given_by_hand = Preprocessing(mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 1.0))
    model = from_module(module, given_by_hand)
    assert model.spec.resize is None
    assert model.mean.tolist() == [255 * value for value in (0.1, 0.2, 0.3)]


@pytest.mark.parametrize(
    ("processor", "resize", "mean"),
    [
        (None, Resize(16, True, "bilinear"), 127.5),
        ({"size": {"height": 20, "width": 20}, "resample": 3}, Resize(16, True, "bicubic"), 127.5),
        (
            {"size": {"shortest_edge": 24}, "crop_size": {"height": 16, "width": 16}, "do_center_crop": True},
            Resize(24, False, "bilinear"),
            127.5,
        ),
        ({"do_resize": False, "image_mean": [0.25] * 3}, None, 63.75),
        ({"do_normalize": False}, Resize(16, True, "bilinear"), 0.0),
        ({"do_rescale": False, "image_mean": [7.0] * 3}, Resize(16, True, "bilinear"), 7.0),
    ],
)
def test_preprocessing_of_a_folder(processor: Any, resize: Resize | None, mean: float, tmp_path: Path) -> None:
    module: Any = hf_vit().module(torch.float32)
    module.save_pretrained(tmp_path)
    if processor is not None:
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    model = load_source(f"transformers/{tmp_path}")
    assert model.spec.resize == resize
    torch.testing.assert_close(model.mean, torch.full((3,), mean))


@pytest.mark.parametrize(
    ("size", "resize"),
    [
        (16, Resize(16, False, "bicubic")),  # as published, where a number is the shorter side
        ({"shortest_edge": 20}, Resize(20, False, "bicubic")),
        ({"height": 16, "width": 16}, Resize(16, True, "bicubic")),
        (None, Resize(224, False, "bicubic")),  # of which the kind's crop would be all
    ],
)
def test_preprocessing_of_a_folder_of_clip(size: Any, resize: Resize, tmp_path: Path) -> None:
    clip("CLIPVisionModelWithProjection").module(torch.float32).save_pretrained(tmp_path)  # type: ignore[operator]
    processor = {"size": size, "crop_size": 16, "do_center_crop": True, "resample": 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    assert load_source(f"transformers/{tmp_path}").spec.resize == resize


@pytest.mark.parametrize("name", ["timm deit, distilled", "torchvision, representation", "transformers DINOv2"])
def test_a_head_for_other_classes_is_new_and_the_rest_is_kept(name: str) -> None:
    module = FOREIGN[name].module()
    model, other = from_module(module), from_module(module, classes=9)
    assert digest(from_module(module, classes=5).state_dict(), None) == digest(model.state_dict(), None)
    assert other(images_of(model.spec)).tolist() == torch.zeros(3, 9).tolist()
    behind = ("head.", "representation.")
    kept = [
        {key: value for key, value in read.state_dict().items() if not key.startswith(behind)}
        for read in (model, other)
    ]
    assert digest(kept[0], None) == digest(kept[1], None)


@pytest.mark.parametrize(
    ("whole", "base"),
    [
        ("transformers ViT", "vit"),
        ("transformers DeiT", "deit"),
        ("transformers DINOv2", "dinov2"),
        ("transformers DINOv2, registers", "dinov2_with_registers"),
        ("transformers CLIP projection", "vision_model"),
    ],
)
def test_a_model_without_a_head_gets_one(whole: str, base: str, tmp_path: Path) -> None:
    module: Any = FOREIGN[whole].module(torch.float32)
    headless = getattr(module, base)
    assert f"{type(headless).__name__} has no head, so it gives no logits; give classes" in refused(
        lambda: headless
    )
    wanted = digest(from_module(module, classes=9).state_dict(), None)
    assert digest(from_module(headless, classes=9).state_dict(), None) == wanted
    headless.save_pretrained(tmp_path)
    assert digest(load_source(f"transformers/{tmp_path}", classes=9).state_dict(), None) == wanted


def test_what_a_model_does_not_use_is_not_in_its_file() -> None:
    plain = spec_to_plain(DEFAULT)
    fields = "name image_size channels classes version patch_size dim head_dim blocks dropout"
    assert sorted(plain) == sorted(fields.split())
    assert plain["blocks"] == [{"heads": [{"qk": 4, "v": 4}], "hidden": 8}]
    assert spec_from_plain(plain, "file") == DEFAULT
    spec = replace(DEFAULT, query_bias=True, resize=Resize(20, False, "bicubic"), pool=("class", "patches"))
    plain = json.loads(json.dumps(spec_to_plain(spec)))
    assert plain["resize"] == {"size": 20, "squash": False, "interpolation": "bicubic"}
    assert spec_from_plain(plain, "file") == spec


def test_importing_the_models_imports_none_of_the_libraries() -> None:
    code = "import sys, vtp.models, vtp.models.vit.pretrained; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], text=True, capture_output=True, check=True
    ).stdout.split()
    assert not set(LIBRARIES) & set(loaded)
