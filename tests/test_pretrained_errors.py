"""Foreign models and files that are refused: one sentence each, which names the key."""

import json
import re
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import vtp.data.sources.torchvision_shim  # noqa: F401  (before what imports torchvision)
from tests.pretrained import IMAGENET, clip, dinov2, hf_vit, images_of, of_timm, refused, vit
from vtp.errors import UserError
from vtp.models.vit.pretrained import LIBRARIES, Preprocessing, from_module, load_source, read_weights


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"qk_norm": True}, "tensor blocks.0.attn.q_norm.weight .* (qk-norm) are not supported"),
        ({"scale_attn_norm": True}, "tensor blocks.0.attn.norm.weight has no place"),
        ({"attn_layer": "diff"}, "blocks.0.attn is a DiffAttention"),
        ({"norm_layer": "rmsnorm"}, "norm1 is a RmsNorm"),
        ({"act_layer": "relu"}, "is a ReLU"),
        ({"class_token": False, "global_pool": "map"}, "attn_pool is a AttentionPoolLatent"),
        ({"global_pool": "avgmax"}, "global_pool is 'avgmax', but must be 'token', or 'avg' of patches"),
        ({"global_pool": "avg", "pool_include_prefix": True}, "global_pool is 'avg' with prefix tokens"),
        ({"img_size": (16, 32)}, "patch_embed has img_size (16, 32)"),
        ({"img_size": 20}, "patch_embed has img_size (20, 20) and patch_size (8, 8)"),
        ({"num_classes": 0}, "has no head, so it gives no logits; give classes"),
        ({"embed_norm_layer": "layernorm"}, "tensor patch_embed.norm.weight has no place"),
    ],
)
def test_what_timm_can_do_and_we_cannot(changes: dict[str, Any], words: str) -> None:
    pattern = ".*".join(map(re.escape, words.split(" .* ")))
    assert re.search(pattern, refused(vit(**changes).build))


def test_other_models_of_the_libraries_are_refused_by_name() -> None:
    import timm
    import transformers

    swiglu = of_timm("vit_giant_patch14_dinov2", IMAGENET).build
    assert "blocks.0.mlp is a " in refused(swiglu)
    swin = {"embed_dim": 8, "depths": (1, 1), "num_heads": (1, 1), "img_size": 32, "window_size": 4}
    found = refused(lambda: timm.create_model("swin_tiny_patch4_window7_224", **swin))
    assert found.startswith("SwinTransformer of timm is not supported; supported are VisionTransformer, ")
    assert "Dinov2SwiGLUFFN" in refused(dinov2(use_swiglu_ffn=True).build)
    for name, config in {
        "SwinForImageClassification": transformers.SwinConfig(
            embed_dim=8, depths=[1], num_heads=[1], image_size=16
        ),
        "SiglipVisionModel": transformers.SiglipVisionConfig(num_hidden_layers=1),
        "DINOv3ViTModel": transformers.DINOv3ViTConfig(num_hidden_layers=1),
        "ViTForMaskedImageModeling": transformers.ViTConfig(num_hidden_layers=1),
    }.items():
        build = getattr(transformers, name)
        found = refused(lambda build=build, config=config: build(config))
        assert found.startswith(
            f"{name} of transformers is not supported; supported are ViTForImageClassification, "
        )
    assert "is a ReLU, which is not supported" in refused(hf_vit(hidden_act="relu").build)
    assert refused(lambda: nn.Linear(2, 2)) == (
        f"Linear is a class of torch, but must be a vision transformer of {', '.join(LIBRARIES)}"
    )


def test_modules_that_were_changed_by_hand_are_refused() -> None:
    module: Any = vit().module()
    module.blocks[1].norm2.eps = 1e-3
    assert "epsilons of norms must be the same in the whole model, but are 1e-06, 0.001" in refused(lambda: module)
    module = vit().module()
    module.blocks[1].mlp.act = nn.GELU("tanh")
    assert "activations must be the same in the whole model, but are gelu, gelu_tanh" in refused(lambda: module)
    module = vit().module()
    module.blocks[1].attn.num_heads, module.blocks[1].attn.head_dim = 6, 4
    assert "heads must be the same in the whole model, but are (3, 8), (6, 4)" in refused(lambda: module)
    module = vit().module()
    module.blocks[0].mlp.fc1 = nn.Sequential(module.blocks[0].mlp.fc1)
    assert "tensor blocks.0.mlp.fc1.0.weight has no place" in refused(lambda: module)
    module.blocks[0].mlp.fc1 = Doubled()
    assert "blocks.0.mlp.fc1 is a Doubled, which is not supported" in refused(lambda: module)


class Doubled(nn.Linear):
    """A layer of one's own."""

    def __init__(self) -> None:
        super().__init__(24, 96)


def test_half_precision_is_refused_and_names_a_tensor() -> None:
    for dtype in (torch.float16, torch.bfloat16):
        found = refused(lambda dtype=dtype: vit().module().to(dtype))
        assert f"tensor cls_token is {str(dtype)[6:]}, but all weights must be float32, or all float64" in found
    module: Any = vit().module()
    module.head.double(), module.norm.float()
    assert "tensor norm.weight is float32" in refused(lambda: module)


def test_a_module_that_does_not_say_how_pixels_are_normalised() -> None:
    import timm

    module = timm.models.vision_transformer.VisionTransformer(16, 8, embed_dim=8, depth=1, num_heads=2).eval()
    assert "does not say how pixels are normalised; give preprocessing" in refused(lambda: module)
    model = from_module(module, Preprocessing(mean=(0.0,) * 3, std=(1.0,) * 3))
    images = images_of(model.spec)
    torch.testing.assert_close(model(images), module(images / 255), rtol=0, atol=1e-5)
    with pytest.raises(UserError, match=r"the pixels' mean is .* but the model has 3 channels"):
        from_module(module, Preprocessing(mean=(0.0,), std=(1.0,)))


class Code:
    """What a pickle may make of its reader."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("run-by-pickle"),)


def test_files_that_do_not_fit_are_refused_with_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tiny = of_timm("deit_tiny_patch16_224", IMAGENET, img_size=32, patch_size=16, embed_dim=192, depth=12)
    state = dict(tiny.module(torch.float32).state_dict())

    def without(name: str) -> dict[str, torch.Tensor]:
        return {key: tensor for key, tensor in state.items() if key != name}

    contents: dict[str, tuple[Any, str]] = {
        "missing": (without("blocks.3.mlp.fc1.bias"), "tensor blocks.3.mlp.fc1.bias is missing"),
        "surplus": ({**state, "blocks.3.ls1.gamma": torch.ones(192)}, "blocks.3.ls1.gamma is left over"),
        "shape": (
            {**state, "norm.weight": torch.ones(3)},
            r"norm.weight is \(3,\), but the model wants it \(192,\)",
        ),
        "norm of tokens": (
            {**state, "fc_norm.bias": torch.ones(192)},
            "tensor fc_norm.bias is left over: the model has none",
        ),
        "deeper": ({**state, "blocks.12.norm1.bias": torch.ones(192)}, "blocks.12.norm1.bias is left over"),
        "other": ({"layer1.0.conv1.weight": torch.ones(2)}, "tensor layer1.0.conv1.weight has no place"),
        "half": ({name: tensor.half() for name, tensor in state.items()}, "is float16, but all weights must be"),
        "code": ({"model": state, "extra": Code()}, "a pickle that wants to run code, which was not done"),
        "number": ({"epoch": 3}, "must hold tensors by name"),
        "tensor": (torch.ones(3), "must hold tensors by name"),
    }
    for name, (content, words) in contents.items():
        torch.save(content, tmp_path / f"{name}.pth")
        with pytest.raises(UserError, match=words) as caught:
            load_source("timm/deit_tiny_patch16_224", tmp_path / f"{name}.pth")
        assert str(caught.value).startswith(f"{tmp_path / name}.pth")
    pooled = {**without("norm.weight"), "fc_norm.weight": torch.ones(192)}
    torch.save(pooled, tmp_path / "pooled.pth")
    with pytest.raises(UserError, match=r"but timm says: The distilled head reads"):
        load_source("timm/deit_tiny_distilled_patch16_224", tmp_path / "pooled.pth")
    with pytest.raises(UserError, match=r"but timm says: Invalid pretrained tag"):
        load_source("timm/deit_tiny_patch16_224.nonsense", tmp_path / "missing.pth")
    assert not Path("run-by-pickle").exists()
    for name in ("text.pth", "text.safetensors"):
        (tmp_path / name).write_text("not weights")
        with pytest.raises(UserError, match=r"damaged|truncated"):
            load_source("timm/deit_tiny_patch16_224", tmp_path / name)
    with pytest.raises(UserError, match=r"nothing.pth: no such file of weights"):
        load_source("timm/deit_tiny_patch16_224", tmp_path / "nothing.pth")


def test_folders_of_transformers_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no weights in this folder"):
        load_source(f"transformers/{tmp_path}")
    module: Any = clip("CLIPVisionModelWithProjection").module(torch.float32)
    save_file(module.state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"must name a folder with a config\.json"):
        load_source(f"transformers/{tmp_path}")
    module.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": ["CLIPModel"]}))
    with pytest.raises(UserError, match="the architecture CLIPModel; supported are ViTForImageClassification"):
        load_source(f"transformers/{tmp_path}")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"size": 32', r"preprocessor_config\.json: not a JSON file of an image processor"),
        ("[]", r"preprocessor_config\.json: not a JSON file of an image processor"),
        (
            '{"size": {"longest_edge": 32}}',
            "size has longest_edge, but must have shortest_edge, or height and width",
        ),
        ('{"resample": 9}', "resample is 9, but must be one of 0, 1, 2, 3"),
        (
            '{"image_mean": 0.5}',
            r"preprocessor_config\.json: the forms of .*'image_mean': 0.5, .* are not all known",
        ),
        (
            '{"size": [16, 16]}',
            r"preprocessor_config\.json: the forms of .*'size': \[16, 16\], .* are not all known",
        ),
        ('{"do_center_crop": true, "crop_size": {"shortest_edge": 9}}', r"the forms of .* are not all known"),
    ],
)
def test_image_processors_that_cannot_be_read(content: str, words: str, tmp_path: Path) -> None:
    module: Any = clip("CLIPVisionModelWithProjection").module(torch.float32)
    module.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(content)
    with pytest.raises(UserError, match=words):
        load_source(f"transformers/{tmp_path}")


def test_a_truncated_file_of_an_older_torch_is_a_sentence(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(3)}, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    content = (tmp_path / "w.pth").read_bytes()
    for size in range(len(content)):
        (tmp_path / "w.pth").write_bytes(content[:size])
        with pytest.raises(UserError, match=r"w\.pth: damaged, or a pickle"):
            read_weights(tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("deit_tiny", "model.source is 'deit_tiny', but must be timm/NAME"),
        ("keras/vit", "model.source is 'keras/vit', but must be timm/NAME"),
        ("timm/", "model.source is 'timm/', but must be"),
        ("timm/vit_gigantic", "timm has no model of that name"),
        ("timm/vit_tiny_patch16_224.nonsense", "timm has no weights; name a file in model.weights"),
        ("torchvision/resnet18", "its name must be one of vit_b_16, vit_b_32"),
    ],
)
def test_sources_that_do_not_exist(source: str, words: str) -> None:
    with pytest.raises(UserError, match=re.escape(words)):
        load_source(source)


def test_without_a_network_the_sentence_names_the_local_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise URLError("no network")

    monkeypatch.setattr("torchvision.models.get_model", offline)
    monkeypatch.setattr("timm.create_model", offline)
    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", offline)
    for source in (
        "torchvision/vit_b_16",
        "timm/deit_tiny_patch16_224",
        "transformers/google/vit-base-patch16-224",
    ):
        with pytest.raises(
            UserError, match=r"could not be downloaded \(URLError\); name a local file in model\.weights"
        ):
            load_source(source)
