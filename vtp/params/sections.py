"""The sections of params.yaml. A field's description is what the comment beside its key says, range aside."""

from functools import reduce
from operator import or_
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from vtp.checked import STRICT, one_of, some_of
from vtp.data.params import ImageParams
from vtp.data.sources import SOURCES
from vtp.decompositions import METHODS
from vtp.models import STARTS

METHOD_NAMES = ("none", *METHODS)
SITES = tuple(dict.fromkeys(site for start in STARTS.values() for site in start.params.sites))
ModelParams: Any = reduce(or_, (start.params for start in STARTS.values()))  # `name` tells them apart
LearningRate = Annotated[float, Field(gt=0, le=10)]
Distillation = Annotated[float, Field(ge=0, le=1)]
Temperature = Annotated[float, Field(gt=0, le=100)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DataParams(ImageParams):
    """Section `data`: which images."""

    name: Annotated[str, one_of(*SOURCES)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TrainingParams:
    """Section `training`: what baseline, sparsify and finetune share."""

    batch_size: int = Field(ge=1, le=1000000, description="images")
    optimizer: Literal["adamw", "adam", "muon"] = Field(
        description="muon is of the weights in blocks, with adamw for the rest"
    )
    weight_decay: float = Field(ge=0, le=10, description="of weight matrices alone")
    warmup_fraction: float = Field(ge=0, le=0.9, description="of the epochs, before the cosine")
    gradient_clip: float = Field(gt=0, description="largest norm of the gradient")
    label_smoothing: float = Field(ge=0, le=0.9)
    crop_padding: int = Field(ge=0, le=64, description="pixels of shift in each direction")
    flip: bool = Field(description="mirror half of the images left to right")
    trivial_augment: float = Field(
        ge=0, le=1, description="probability that an image has one random change of colour or shape"
    )
    erasing: float = Field(ge=0, le=1, description="probability that a box of an image is blackened")
    mixup: float = Field(ge=0, le=10, description="alpha of the blending of two images; 0: off")
    cutmix: float = Field(ge=0, le=10, description="alpha of the pasting of a box of another image; 0: off")
    ema: float = Field(ge=0, le=0.99999, description="decay of the moving average of the weights; 0: off")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        description="bfloat16 is autocast; auto: where it is faster"
    )
    compile: bool = Field(description="by torch.compile, which takes a minute and a C++ compiler")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class BaselineParams:
    """Section `baseline`: training of the dense model."""

    epochs: int = Field(ge=0, description="with 0 the model stays as it is, such as a pretrained one")
    learning_rate: LearningRate = Field(description="the peak, after warm-up")
    teacher: str | None = Field(
        description="a checkpoint to learn from, of any model for the same images and classes; empty: none"
    )
    distillation: Distillation = Field(description="weight of the teacher's soft targets; 0: off")
    temperature: Temperature = Field(description="of the soft targets")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SparsifyParams:
    """Section `sparsify`: learning of the importance scores."""

    sites: Annotated[tuple[str, ...], some_of(*SITES)] = Field(description="which dimensions are scored")
    epochs: int = Field(ge=1)
    learning_rate: LearningRate
    l1: float = Field(ge=0, le=1, description="rate of the L1 penalty on the scores")
    step: Literal["proximal", "subgradient"] = Field(description="exact zeros, or as in network slimming")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CompressParams:
    """Section `compress`: one budget for prune and decompose together."""

    keep: float | None = Field(
        gt=0, le=1, description="of the dense layers' cost: what dims and ranks keep together"
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PruneParams:
    """Section `prune`: removal of scored dimensions."""

    rate: float = Field(ge=0, le=0.95, description="fraction of the scored dimensions to remove; zeros all go")
    rates: dict[Annotated[str, one_of(*SITES)], Annotated[float, Field(ge=0, le=0.95)]] = Field(
        description="a rate of its own for a kind of site, such as {mlp.hidden: 0.5}, with its own threshold"
    )
    threshold: Literal["global", "layer", "head"] = Field(
        description="over all sites, of each site, or of each head too"
    )
    correction: Literal["none", "least_squares"] = Field(description="refit what writes to the residual stream")
    images: int = Field(ge=1, description="training images, without labels, for the correction")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CalibrateParams:
    """Section `calibrate`: what flows through the slim model's layers."""

    images: int = Field(ge=1, description="training images, without labels, for moments and gradients")
    batch: int = Field(ge=0, description="images that are timed for decompose.budget latency; 0: none")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DecomposeParams:
    """Section `decompose`: low-rank factors in place of weights."""

    keep: float = Field(gt=0, le=1, description="fraction of the factorisable layers' cost that factors may use")
    budget: Literal["parameters", "macs", "latency"] = Field(
        description="what keep counts; latency is that of the whole model"
    )
    allocation: Literal["uniform", "global"] = Field(
        description="each layer alike, or ranks where they remove most error"
    )
    metric: Literal["weight", "activation", "loss"] = Field(
        description="what an error counts: in the weight, the outputs or the loss"
    )
    form: Literal["auto", "pair", "pivot"] = Field(
        description="two factors, or rows and a mix of them, of fewer parameters; auto: what costs less"
    )
    correction: Literal["none", "least_squares"] = Field(
        description="fit the factors of each layer to what it reads by then"
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class FinetuneParams:
    """Section `finetune`: training of the compressed model."""

    epochs: int = Field(ge=1)
    learning_rate: LearningRate
    distillation: Distillation = Field(description="weight of the dense model's soft targets; 0: off")
    temperature: Temperature = Field(description="of the soft targets")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MachineParams:
    """Section `machine`: how the work is done, not what: no stage reruns when it changes."""

    instructions: Literal["portable", "native"] = Field(
        description="the same bytes on every CPU with AVX2, or its own best"
    )
    device: Literal["auto", "cpu", "cuda"]
    threads: int = Field(ge=1, le=1024, description="of the CPU; the last bits may differ with another number")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Params:
    """The whole of params.yaml; the file itself comments every key with its unit and range."""

    seed: int = Field(
        ge=0, le=2**31 - 1, description="the split, initialisation, data order and dropout follow from it"
    )
    methods: Annotated[tuple[str, ...], some_of(*METHOD_NAMES)] = Field(
        description="what decompose runs: none, or a decomposition (docs/methods.md)"
    )
    decomp: Annotated[str, one_of(*METHOD_NAMES)] = Field(
        description="one of methods: the one that finetune and evaluate follow"
    )
    data: DataParams
    model: Annotated[ModelParams, Field(discriminator="name")]
    training: TrainingParams
    baseline: BaselineParams
    sparsify: SparsifyParams
    compress: CompressParams
    prune: PruneParams
    calibrate: CalibrateParams
    decompose: DecomposeParams
    finetune: FinetuneParams
    machine: MachineParams
