"""A pretrained vision transformer as the first model of a run."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from vtp.errors import UserError
from vtp.files import users_file
from vtp.models.base import Model
from vtp.models.family import Facts, Start
from vtp.models.vit.module import filled
from vtp.models.vit.pretrained import load_source
from vtp.models.vit.pretrained.params import OWN, PretrainedParams
from vtp.models.vit.resampling import resampled
from vtp.models.vit.spec import ViTSpec

RESAMPLING = "; model.patch_size, in pixels, resamples it for images of another size"


def pretrained(params: PretrainedParams, facts: Facts, seed: int, root: Path) -> Model:
    """Return the model of the source in float32, for the classes, and by `patch_size` the images, of the run.

    A head for another number of classes is replaced by one of zeros, so nothing is drawn from `seed`. A printed
    line says so, and another if the model was resampled. Relative paths in `source` and `weights` start at `root`.

    Raises UserError, one sentence, if the source or its weights cannot be had, or if the images were not made as
    those that the source was trained on: it names keys of the section `data` and their values.
    """
    weights = None if params.weights is None else users_file("model.weights", params.weights, root)
    model = load_source(source_below(root, params.source), weights, facts.classes).float()
    spec, state = model.spec, model.state_dict()
    assert isinstance(spec, ViTSpec)
    if not state["head.weight"].any():
        print(
            f"{params.source}: it has no head for {facts.classes} classes, so it gets a new one, "
            "which knows nothing before baseline.epochs of training"
        )
    if params.patch_size and (params.patch_size, facts.image_size) != (spec.patch_size, spec.image_size):
        before = _sizes(spec)
        spec, state = resampled(spec, state, facts.image_size, params.patch_size)
        print(f"{params.source}: resampled from {before} to {_sizes(spec)}, for which baseline.epochs train it")
    check_images(params.source, spec, facts)
    return filled(replace(spec, patch_dropout=params.patch_dropout), state)


def source_below(root: Path, source: str) -> str:
    """Return `source` with the whole path where it names a file or folder, relative to `root`, and not a model."""
    library, _, name = source.partition("/")
    path = users_file("model.source", name, root)
    return f"{library}/{path}" if library == OWN or path.is_dir() else source


def check_images(source: str, spec: ViTSpec, facts: Facts) -> None:
    """Raise UserError unless the images are of the size and kind of the spec, brought to it as it wants them."""
    if facts.channels != spec.channels:
        raise UserError(
            f"model.source is {source}, for images of {spec.channels} channels, but those of the data have "
            f"{facts.channels}"
        )
    wanted: dict[str, int | bool | str] = {"image_size": spec.image_size}
    found: dict[str, int | bool | str] = {"image_size": facts.image_size}
    if spec.resize is not None:
        wanted |= {"resize": _resize(spec.resize.size, spec.image_size), "squash": spec.resize.squash}
        wanted |= {"interpolation": spec.resize.interpolation}
        found |= {"resize": _resize(facts.resize, facts.image_size), "squash": facts.squash}
        found |= {"interpolation": facts.interpolation}
    wrong = [key for key in wanted if wanted[key] != found[key]]
    if wrong:
        raise UserError(
            f"params.yaml: {_settings(found, wrong)}, but {source} was trained on images with "
            f"{_settings(wanted, wrong)}{RESAMPLING if 'image_size' in wrong else ''}"
        )


def _resize(size: int, image_size: int) -> int:
    """Return `data.resize` as params.yaml is to have it: 0 where nothing is left to crop."""
    return 0 if size == image_size else size


def _sizes(spec: ViTSpec) -> str:
    return f"patches of {spec.patch_size} pixels in images of {spec.image_size}"


def _settings(values: Mapping[str, int | bool | str], keys: list[str]) -> str:
    return ", ".join(f"data.{key}: {str(values[key]).lower()}" for key in keys)


START = Start(PretrainedParams, pretrained)
