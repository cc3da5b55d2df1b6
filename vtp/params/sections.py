"""The sections of params.yaml, a frozen dataclass each."""

import re
from dataclasses import dataclass
from typing import ClassVar

from vtp.decompositions import METHODS
from vtp.params.rules import Rule, above, anything, at_least, between, key, one_of, rates_of, some_of

METHOD_NAMES = ("none", *METHODS)


@dataclass(frozen=True)
class DataParams:
    """Section `data`: which images."""

    name: str = one_of("digits", "cifar10", "cifar100", "imagefolder")
    path: str | None = anything()
    sha256: str | None = key(
        Rule("64 hexadecimal digits", lambda value: value is None or bool(re.fullmatch("[0-9a-fA-F]{64}", value)))
    )
    image_size: int = between(4, 1024)
    validation_fraction: float = between(0.01, 0.5)


@dataclass(frozen=True)
class ViTParams:
    """Section `model` of name `vit`: a vision transformer."""

    sites: ClassVar = ("attention.inner", "mlp.hidden", "attention.input", "mlp.input")

    name: str = one_of("vit")
    patch_size: int = at_least(1)
    dim: int = between(1, 32768)
    depth: int = between(1, 1024)
    heads: int = between(1, 1024)
    head_dim: int = between(1, 32768)
    mlp_dim: int = between(1, 131072)
    dropout: float = between(0.0, 0.9)


@dataclass(frozen=True)
class ResNetParams:
    """Section `model` of name `resnet18`: the form with a 3×3 stem and no max-pooling."""

    sites: ClassVar = ("block.inner",)

    name: str = one_of("resnet18")
    width: int = between(1, 4096)


ModelParams = ViTParams | ResNetParams
SITES = (*ViTParams.sites, *ResNetParams.sites)
MODELS: dict[str, type[ViTParams] | type[ResNetParams]] = {"vit": ViTParams, "resnet18": ResNetParams}


@dataclass(frozen=True)
class TrainingParams:
    """Section `training`: what baseline, sparsify and finetune share."""

    batch_size: int = between(1, 1000000)
    optimizer: str = one_of("adamw", "adam")
    weight_decay: float = between(0.0, 10.0)
    warmup_fraction: float = between(0.0, 0.9)
    gradient_clip: float = above(0.0)
    label_smoothing: float = between(0.0, 0.9)
    crop_padding: int = between(0, 64)
    flip: bool = key(Rule("true or false", lambda value: True))
    precision: str = one_of("float32", "bfloat16")
    device: str = one_of("auto", "cpu", "cuda")
    threads: int = between(1, 1024)


@dataclass(frozen=True)
class BaselineParams:
    """Section `baseline`: training of the dense model."""

    epochs: int = at_least(1)
    learning_rate: float = above(0.0, 10.0)


@dataclass(frozen=True)
class SparsifyParams:
    """Section `sparsify`: learning of the importance scores."""

    epochs: int = at_least(1)
    learning_rate: float = above(0.0, 10.0)
    l1: float = between(0.0, 1.0)
    step: str = one_of("proximal", "subgradient")
    sites: tuple[str, ...] = some_of(*SITES)


@dataclass(frozen=True)
class PruneParams:
    """Section `prune`: removal of scored dimensions."""

    rate: float = between(0.0, 0.95)
    rates: dict[str, float] = rates_of(*SITES, low=0.0, high=0.95)
    threshold: str = one_of("global", "layer", "head")
    correction: str = one_of("none", "least_squares")
    calibration_images: int = at_least(1)


@dataclass(frozen=True)
class DecomposeParams:
    """Section `decompose`: low-rank factors in place of weights."""

    keep: float = above(0.0, 1.0)
    budget: str = one_of("parameters", "macs")
    allocation: str = one_of("uniform", "global")
    metric: str = one_of("weight", "activation", "loss")
    calibration_images: int = at_least(1)


@dataclass(frozen=True)
class FinetuneParams:
    """Section `finetune`: training of the compressed model."""

    epochs: int = at_least(1)
    learning_rate: float = above(0.0, 10.0)
    distillation: float = between(0.0, 1.0)
    temperature: float = above(0.0, 100.0)


@dataclass(frozen=True, kw_only=True)
class Params:
    """The whole of params.yaml; the file itself comments every key with its unit and range."""

    seed: int = between(0, 2**31 - 1)
    decomp: str = one_of(*METHOD_NAMES)
    methods: tuple[str, ...] = some_of(*METHOD_NAMES)
    data: DataParams
    model: ModelParams
    training: TrainingParams
    baseline: BaselineParams
    sparsify: SparsifyParams
    prune: PruneParams
    decompose: DecomposeParams
    finetune: FinetuneParams
