"""What benchmarks of compressing share: trained dense models, and how near a smaller model comes to them."""

import statistics
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from torch import Tensor

from vtp.calibration.moments import Moments, moments
from vtp.calibration.watching import calibration_images
from vtp.cost import parameters
from vtp.data.batches import normalisation
from vtp.data.dataset import Dataset, Split
from vtp.measure import divergence, logits
from vtp.models import Model, dense_spec, initialised
from vtp.models.vit.params import ViTParams
from vtp.models.vit.pretrained import Preprocessing, from_module
from vtp.params import Params
from vtp.prune import weights
from vtp.training.loop import Recipe, train


@dataclass(frozen=True, eq=False)
class Given:
    """A dense model and all that a method may use to compress it.

    Attributes:
        dense: the model, in evaluation mode, on the CPU.
        params, dataset: what it was trained by and on.
        seed: of its training, and of those to come.
    """

    dense: Model
    params: Params
    dataset: Dataset
    seed: int

    @cached_property
    def images(self) -> Tensor:
        """The calibration images, uint8 (N, C, H, W)."""
        return calibration_images(self.dataset.train.images, self.params.calibrate.images, self.params.seed)

    @cached_property
    def labels(self) -> Tensor:
        """Those of the calibration images, (N,)."""
        return calibration_images(self.dataset.train.labels, self.params.calibrate.images, self.params.seed)

    def flows(self) -> dict[str, Moments]:
        """Return what flows through the dense layers on the calibration images, found anew at each call."""
        return moments(self.dense, self.images, self.params.seed)

    def budget(self, keep: float) -> int:
        """Return how many parameters are left in a model that keeps that fraction of its blocks' weights."""
        return round(parameters(self.dense.spec) - (1 - keep) * weights(self.dense))


class Silent:
    """Watches a training and says nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: None


def trained(params: Params, dataset: Dataset, seed: int) -> Model:
    """Return the dense model of params.yaml, trained with another seed."""
    spec = dense_spec(
        params.model,
        channels=dataset.channels,
        classes=len(dataset.class_names),
        image_size=params.data.image_size,
    )
    return baseline(initialised(spec, seed, *normalisation(dataset.train)), params, dataset, seed)


def built_by_timm(params: Params, dataset: Dataset, seed: int) -> Model:
    """Return a vision transformer of timm, not trained, with the sizes of params.yaml."""
    import_module("vtp.data.sources.torchvision_shim")
    timm: Any = import_module("timm.models.vision_transformer")
    sizes = cast(ViTParams, params.model)
    torch.manual_seed(seed)
    module = timm.VisionTransformer(
        img_size=params.data.image_size,
        patch_size=sizes.patch_size,
        in_chans=dataset.channels,
        num_classes=len(dataset.class_names),
        embed_dim=sizes.dim,
        depth=sizes.depth,
        num_heads=sizes.heads,
        mlp_ratio=sizes.mlp_dim / sizes.dim,
    )
    mean, std = (tuple(value / 255 for value in values) for values in normalisation(dataset.train))
    return from_module(module, Preprocessing(mean=mean, std=std))


def baseline(model: Model, params: Params, dataset: Dataset, seed: int) -> Model:
    """Return the untrained model after the training that params.yaml gives the dense one."""
    recipe = Recipe("baseline", seed, params.baseline.epochs, params.baseline.learning_rate, params.training)
    return fitted(model, dataset, recipe)


def fitted(model: Model, dataset: Dataset, recipe: Recipe, teacher: Model | None = None) -> Model:
    """Return the model after a training, without a trace on the disk."""
    with TemporaryDirectory() as folder:
        resume = Path(folder) / "state"
        splits = (dataset.train, dataset.validation)
        return train(model, *splits, recipe, resume=resume, watcher=Silent(), teacher=teacher)[0]


def held_out(dataset: Dataset) -> Split:
    """Return the validation and test images: for models that were trained here, to show differences on."""
    splits = (dataset.validation, dataset.test)
    return Split(torch.cat([each.images for each in splits]), torch.cat([each.labels for each in splits]))


def measured(dense: Model, model: Model, split: Split) -> tuple[float, float]:
    """Return the divergence of the model from the dense one, and its accuracy."""
    expected, found = (logits(each, split.images) for each in (dense, model))
    return divergence(expected, found)[0], float((found.argmax(1) == split.labels).double().mean())


def spread(values: list[float], form: str = ".4f") -> str:
    """Return `mean ± standard deviation`, or the value; each in that form."""
    deviation = f" ± {statistics.stdev(values):{form}}" if len(values) > 1 else ""
    return f"{statistics.mean(values):{form}}{deviation}"
