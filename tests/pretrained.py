"""Small vision transformers of timm, torchvision and transformers, with random weights."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import timm
import torch
import transformers
from torch import Tensor, nn
from torchvision.models.vision_transformer import VisionTransformer

from vtp.errors import UserError
from vtp.models.vit.pretrained import from_module

HALF = ((0.5,) * 3, (0.5,) * 3)
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
Normalisation = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True)
class Foreign:
    """A configuration of another library, and the pixels' mean and deviation (0 to 1) that it is meant for."""

    build: Callable[[], nn.Module]
    normalisation: Normalisation

    def module(self, dtype: torch.dtype = torch.float64, seed: int = 0) -> nn.Module:
        """The module with random weights of unit gain; no bias, norm or scale is without effect."""
        module = self.build().to(dtype).eval()
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                if name.endswith(("gamma", "lambda1")) or (("norm" in name or "ln" in name) and "weight" in name):
                    parameter.copy_(1 + 0.3 * noise)
                elif parameter.ndim in (2, 4) and "embedding.weight" not in name:
                    parameter.copy_(noise / parameter[0].numel() ** 0.5)
                else:
                    parameter.copy_(0.3 * noise)
        return module

    @torch.no_grad()
    def logits(self, module: nn.Module, images_BCHW: Tensor) -> Tensor:
        """What the module makes of pixel values 0 to 255, normalised as its library does."""
        dtype = next(module.parameters()).dtype
        mean, std = (torch.tensor(values, dtype=dtype)[:, None, None] for values in self.normalisation)
        output: Any = module((images_BCHW.to(dtype) / 255 - mean) / std)
        if isinstance(output, Tensor):
            return output
        logits: Tensor = output.logits if "logits" in output else output.image_embeds
        return logits


def images_of(spec: Any, count: int = 3) -> Tensor:
    """Random pixels (count, C, H, W), uint8."""
    shape = (count, spec.channels, spec.image_size, spec.image_size)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def of_timm(name: str, normalisation: Normalisation, **changes: Any) -> Foreign:
    small = {"img_size": 16, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 5}
    return Foreign(partial(timm.create_model, name, **small | changes), normalisation)


def of_torchvision(**changes: Any) -> Foreign:
    small = {"num_layers": 2, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 24, "num_classes": 5}

    def build() -> nn.Module:
        return VisionTransformer(**small | {"image_size": 16, "patch_size": 8} | changes)

    return Foreign(build, IMAGENET)


def of_transformers(kind: str, config: str, normalisation: Normalisation, **changes: Any) -> Foreign:
    small: dict[str, Any] = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "mlp_ratio": 2}
    small |= {"intermediate_size": 36, "image_size": 16, "patch_size": 8, "num_labels": 5, "projection_dim": 7}

    def build() -> nn.Module:
        made = getattr(transformers, config)(**small | changes)
        if kind == "CLIPForImageClassification":
            made = transformers.CLIPConfig(vision_config=made.to_dict(), num_labels=5)
        module: nn.Module = getattr(transformers, kind)(made)
        return module

    return Foreign(build, normalisation)


def refused(build: Any) -> str:
    """The sentence with which the module is refused; it is built without values."""
    with torch.device("meta"):
        module = build()
    with pytest.raises(UserError) as caught:
        from_module(module)
    assert "\n" not in str(caught.value)
    return str(caught.value)


vit = partial(of_timm, "vit_tiny_patch16_224", HALF)
deit = partial(of_timm, "deit_tiny_patch16_224", IMAGENET)
deit3 = partial(of_timm, "deit3_small_patch16_224", IMAGENET)
distilled = partial(of_timm, "deit_tiny_distilled_patch16_224", IMAGENET)
hf_vit = partial(of_transformers, "ViTForImageClassification", "ViTConfig", HALF)
hf_deit = partial(of_transformers, config="DeiTConfig", normalisation=IMAGENET)
dinov2 = partial(of_transformers, "Dinov2ForImageClassification", "Dinov2Config", IMAGENET)
registers = partial(
    of_transformers,
    "Dinov2WithRegistersForImageClassification",
    "Dinov2WithRegistersConfig",
    IMAGENET,
)
clip = partial(of_transformers, config="CLIPVisionConfig", normalisation=CLIP)

FOREIGN: dict[str, Foreign] = {
    "timm vit": vit(),
    "timm vit, no qkv bias": vit(qkv_bias=False),
    "timm vit, no bias of projections": vit(proj_bias=False),
    "timm vit, registers": vit(reg_tokens=2),
    "timm vit, registers without positions": vit(reg_tokens=2, no_embed_class=True),
    "timm vit, mean of patches": vit(global_pool="avg"),
    "timm vit, mean of normed patches": vit(global_pool="avg", fc_norm=False, act_layer="gelu_tanh"),
    "timm vit, no class token": vit(global_pool="avg", class_token=False),
    "timm vit, register alone": vit(global_pool="avg", class_token=False, reg_tokens=1, no_embed_class=True),
    "timm vit, norm after the pool": vit(fc_norm=True),
    "timm vit, no final norm": vit(final_norm=False),
    "timm vit, no positions": vit(pos_embed="none"),
    "timm vit, norm before the blocks": vit(pre_norm=True),
    "timm vit, layer scale": vit(init_values=0.1),
    "timm vit, sizes may change": vit(dynamic_img_size=True),
    "timm vit, grey": Foreign(vit(in_chans=1).build, ((0.5,), (0.5,))),
    "timm vit, patch 4, one head": vit(patch_size=4, num_heads=1, mlp_ratio=2.5, depth=1),
    "timm vit clip quickgelu": of_timm("vit_base_patch32_clip_quickgelu_224", CLIP),
    "timm vit reg4 dinov2": of_timm("vit_small_patch14_reg4_dinov2", IMAGENET),
    "timm vit reg4 gap": of_timm("vit_medium_patch16_reg4_gap_256", HALF),
    "timm deit": deit(),
    "timm deit, distilled": distilled(),
    "timm deit, distilled, layer scale, norm before": distilled(init_values=0.1, pre_norm=True),
    "timm deit3": deit3(),
    "timm deit3, mean of patches": deit3(global_pool="avg"),
    "torchvision as vit_b_16": of_torchvision(patch_size=16, image_size=32, num_heads=4),
    "torchvision as vit_b_32": of_torchvision(patch_size=32, image_size=64),
    "torchvision as vit_l_16": of_torchvision(patch_size=16, image_size=32, num_layers=3, mlp_dim=64),
    "torchvision as vit_h_14": of_torchvision(patch_size=14, image_size=28, num_heads=1),
    "torchvision, representation": of_torchvision(representation_size=9),
    "transformers ViT": hf_vit(),
    "transformers ViT, no qkv bias": hf_vit(qkv_bias=False),
    "transformers ViT, tanh GELU": hf_vit(hidden_act="gelu_new", patch_size=4),
    "transformers DeiT": hf_deit(kind="DeiTForImageClassification"),
    "transformers DeiT, teacher": hf_deit(kind="DeiTForImageClassificationWithTeacher"),
    "transformers DINOv2": dinov2(),
    "transformers DINOv2, no mask token": dinov2(use_mask_token=False, qkv_bias=False),
    "transformers DINOv2, registers": registers(),
    "transformers DINOv2, one register": registers(num_register_tokens=1, patch_size=4),
    "transformers CLIP classifier": clip("CLIPForImageClassification"),
    "transformers CLIP projection": clip("CLIPVisionModelWithProjection"),
    "transformers CLIP projection, GELU": clip("CLIPVisionModelWithProjection", hidden_act="gelu"),
}
