"""Vision transformers of Hugging Face transformers: ViT, DeiT, DINOv2 with and without registers, CLIP.

Files keep the names of older versions; a live module of version 5 has others. Both are read.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vtp.errors import UserError
from vtp.models.family import State
from vtp.models.vit.pretrained.reading import (
    Architecture,
    Library,
    Pool,
    Preprocessing,
    activation,
    files_of_folder,
    layers,
    norm_epsilon,
    the_one,
)
from vtp.models.vit.spec import Resize

POOLS: dict[str, tuple[Pool, Any]] = {
    "ViTForImageClassification": (("class",), "pooled"),
    "DeiTForImageClassification": (("class",), "pooled"),
    "DeiTForImageClassificationWithTeacher": (("class", "distillation"), "pooled"),
    "Dinov2ForImageClassification": (("class", "patches"), "tokens"),
    "Dinov2WithRegistersForImageClassification": (("class", "patches"), "tokens"),
    "CLIPForImageClassification": (("patches",), "none"),
    "CLIPVisionModelWithProjection": (("class",), "pooled"),
    # Without a head: for one of the right width, of the family's own classifier.
    "ViTModel": (("class",), "pooled"),
    "DeiTModel": (("class",), "pooled"),
    "Dinov2Model": (("class", "patches"), "tokens"),
    "Dinov2WithRegistersModel": (("class", "patches"), "tokens"),
    "CLIPVisionModel": (("class",), "pooled"),
}
MODEL = r"(?:(?:vit|deit|dinov2|dinov2_with_registers|vision_model)\.)?"
BLOCK = MODEL + r"(?:encoder\.layers?|layers)\.(?P<block>\d+)\."
NAMES = {
    MODEL + r"embeddings\.(?:cls_token|class_embedding)": "class_token",
    MODEL + r"embeddings\.distillation_token": "distillation_token",
    MODEL + r"embeddings\.register_tokens": "registers",
    MODEL + r"embeddings\.(?:position_embeddings|position_embedding\.weight)": "positions",
    **layers(
        MODEL,
        "",
        {
            r"embeddings\.(?:patch_embeddings\.projection|patch_embedding)": "embedding",
            "pre_layrnorm": "pre_norm",
            r"layernorm|post_layernorm": "norm",
        },
    ),
    **layers("", "", {r"classifier|cls_classifier|visual_projection": "head"}),
    **layers("", "", {"distillation_classifier": "distillation_head"}),
    **layers(
        BLOCK,
        r"blocks.\g<block>.",
        {
            r"layernorm_before|norm1|layer_norm1": "attention_norm",
            r"attention\.attention\.query|(?:attention|self_attn)\.q_proj": "attention.query",
            r"attention\.attention\.key|(?:attention|self_attn)\.k_proj": "attention.key",
            r"attention\.attention\.value|(?:attention|self_attn)\.v_proj": "attention.value",
            r"attention\.output\.dense|attention\.o_proj|self_attn\.out_proj": "attention.output",
            r"layernorm_after|norm2|layer_norm2": "mlp_norm",
            r"intermediate\.dense|mlp\.fc1": "mlp.up",
            r"output\.dense|mlp\.fc2": "mlp.down",
        },
    ),
    BLOCK + r"layer_scale1\.lambda1": r"blocks.\g<block>.attention.scale",
    BLOCK + r"layer_scale2\.lambda1": r"blocks.\g<block>.mlp.scale",
}
PARTS = (
    f"{'|'.join(POOLS)}|(?:ViT|DeiT|Dinov2|Dinov2WithRegisters)(?:Embeddings|Pooler|PatchEmbeddings|Encoder|Layer|"
    "Attention|MLP|LayerScale|DropPath)|CLIP(?:VisionEmbeddings|Encoder|EncoderLayer|Attention|MLP)|"
    "Tanh|GELUActivation|NewGELUActivation|GELUTanh|QuickGELUActivation|"
    "ModuleList|Conv2d|Linear|LayerNorm|Embedding|Dropout|Identity"
)
IMAGENET = {"image_mean": (0.485, 0.456, 0.406), "image_std": (0.229, 0.224, 0.225)}
# What the image processors of the published checkpoints do, where there is no preprocessor_config.json to read.
CROPPED = {"crop_size": 224, "do_center_crop": True, "resample": 3}
SHORTEST_256 = {"size": {"shortest_edge": 256}, **CROPPED, **IMAGENET}
PROCESSORS: dict[str, dict[str, Any]] = {
    "vit": {"size": {"height": 224}, "resample": 2, "image_mean": (0.5,) * 3, "image_std": (0.5,) * 3},
    "deit": {**SHORTEST_256, "size": {"height": 256}},
    "dinov2": SHORTEST_256,
    "dinov2_with_registers": SHORTEST_256,
    "clip": {
        **SHORTEST_256,
        "size": {"shortest_edge": 224},
        "image_mean": (0.48145466, 0.4578275, 0.40821073),
        "image_std": (0.26862954, 0.26130258, 0.27577711),
    },
}
PROCESSORS["clip_vision_model"] = PROCESSORS["clip"]
INTERPOLATIONS: dict[Any, Any] = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
PROCESSOR_FILE = "preprocessor_config.json"


def architecture(module: Any) -> Architecture:
    """Say what the module computes; raise UserError if it is something that is not supported."""
    config = getattr(module.config, "vision_config", module.config)
    image_size, patch_size = _square(config, "image_size"), _square(config, "patch_size")
    if image_size % patch_size:
        raise UserError(f"patch_size is {patch_size}, but must divide image_size, which is {image_size}")
    pool, norm = POOLS[type(module).__name__]
    attentions = [part for part in module.modules() if type(part).__name__.endswith("Attention")]
    head_dim = the_one("dims of heads", (part.head_dim for part in attentions))
    return Architecture(
        image_size=image_size,
        patch_size=patch_size,
        heads=config.num_attention_heads,
        head_dim=head_dim,
        norm_epsilon=norm_epsilon(module),
        activation=activation(module),
        pool=pool,
        norm=norm,
    )


def _square(config: Any, key: str) -> int:
    value = getattr(config, key)
    sides = {value} if isinstance(value, int) else set(value)
    if len(sides) != 1:
        raise UserError(f"{key} is {value}, but must be square")
    return int(sides.pop())


def preprocessing(module: Any) -> Preprocessing:
    """Return what preprocessor_config.json says, where the module came from a folder or download that has one.

    Otherwise, and for the keys that it lacks, it is what the published checkpoints of that kind have.
    """
    config = module.config
    processor = dict(PROCESSORS[config.model_type])
    file = _processor_file(config.name_or_path)
    if file is not None:
        processor |= _stated(file, processor["size"])
    try:
        return _from_processor(processor, _square(getattr(config, "vision_config", config), "image_size"))
    except (TypeError, AttributeError, LookupError) as error:
        said = {key: processor.get(key) for key in ("image_mean", "image_std", "size", "crop_size")}
        raise UserError(f"{file}: the forms of {said} are not all known") from error


def _stated(file: Path, size: Mapping[str, int]) -> dict[str, Any]:
    """Return what a preprocessor_config.json says; `size` is that of the published checkpoints of the kind.

    A number as its size means what it means to the kind: a square, or the shorter side.
    """
    try:
        stated = {key: value for key, value in json.loads(file.read_text()).items() if value is not None}
    except (ValueError, AttributeError) as error:
        raise UserError(f"{file}: not a JSON file of an image processor") from error
    if isinstance(stated.get("size"), int):
        stated["size"] = dict.fromkeys(size, stated["size"])
    return stated


def _processor_file(name: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    if (Path(name) / PROCESSOR_FILE).is_file():
        return Path(name) / PROCESSOR_FILE
    if not name or Path(name).exists():
        return None
    cached = try_to_load_from_cache(name, PROCESSOR_FILE)
    return Path(cached) if isinstance(cached, str) else None


def _from_processor(processor: Mapping[str, Any], image_size: int) -> Preprocessing:
    if processor["resample"] not in INTERPOLATIONS:
        raise UserError(
            f"{PROCESSOR_FILE}: resample is {processor['resample']!r}, but must be one of "
            + ", ".join(map(str, INTERPOLATIONS))
        )
    scale = processor.get("rescale_factor", 1 / 255) if processor.get("do_rescale", True) else 1
    is_normalised = processor.get("do_normalize", True)
    channels = len(processor["image_mean"])
    mean = processor["image_mean"] if is_normalised else (0.0,) * channels
    std = processor["image_std"] if is_normalised else (1.0,) * channels
    resize = None
    if processor.get("do_resize", True):
        sides = processor["size"]
        pixels = sides.get("shortest_edge") or sides.get("height")
        if pixels is None:
            found = " and ".join(sides)
            raise UserError(
                f"{PROCESSOR_FILE}: size has {found}, but must have shortest_edge, or height and width"
            )
        crop = processor["crop_size"] if processor.get("do_center_crop") else pixels
        crop = crop["height"] if isinstance(crop, dict) else crop
        # Where images are made for another size than the model's, the part that is kept stays the same.
        pixels = round(pixels * image_size / crop)
        resize = Resize(pixels, "shortest_edge" not in sides, INTERPOLATIONS[processor["resample"]])
    factor = 1 / (255 * scale)
    return Preprocessing(
        mean=tuple(value * factor for value in mean), std=tuple(value * factor for value in std), resize=resize
    )


def build(name: str, state: State) -> nn.Module:
    """Return the module of the config.json in the folder `name`, on the meta device."""
    import transformers

    if not (Path(name) / "config.json").is_file():
        raise UserError(f"model.source is transformers/{name}, but must name a folder with a config.json")
    config = transformers.AutoConfig.from_pretrained(name, local_files_only=True)
    kind = _supported(config, name)
    with torch.device("meta"):
        return getattr(transformers, kind)(config)  # type: ignore[no-any-return]


def download(name: str) -> nn.Module:
    """Return the published model with its weights; its preprocessor_config.json comes along."""
    import transformers
    from huggingface_hub import hf_hub_download

    kind = _supported(transformers.AutoConfig.from_pretrained(name), name)
    hf_hub_download(name, PROCESSOR_FILE)
    return getattr(transformers, kind).from_pretrained(name)  # type: ignore[no-any-return]


def _supported(config: Any, name: str) -> str:
    kind = next(iter(config.architectures or ()), None)
    if kind not in POOLS:
        raise UserError(
            f"model.source is transformers/{name}, whose config.json names the architecture {kind}; "
            f"supported are {', '.join(POOLS)}"
        )
    return str(kind)


LIBRARY = Library(
    models=tuple(POOLS),
    parts=PARTS,
    names=NAMES,
    unread=MODEL + r"(?:embeddings\.(?:mask_token|position_ids)|pooler\..*)",
    architecture=architecture,
    preprocessing=preprocessing,
    files=files_of_folder,
    build=build,
    download=download,
)
