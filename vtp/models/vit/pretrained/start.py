"""A pretrained vision transformer as the first model of a run."""

from collections.abc import Mapping
from pathlib import Path

from vtp.errors import UserError
from vtp.models.base import Model
from vtp.models.family import Facts, Start
from vtp.models.vit.pretrained import load_source
from vtp.models.vit.pretrained.params import PretrainedParams
from vtp.models.vit.spec import ViTSpec


def pretrained(params: PretrainedParams, facts: Facts, seed: int, root: Path) -> Model:
    """Return the model of the source in float32, with a new head if its own is for another number of classes.

    The new head is zeros, so nothing is drawn from `seed`; a printed line says so. Relative paths in `source` and
    `weights` start at `root`.

    Raises UserError, one sentence, if the source or its weights cannot be had, or if the images were not made as
    those that the source was trained on: it names keys of the section `data` and their values.
    """
    weights = None if params.weights is None else root / Path(params.weights).expanduser()
    model = load_source(source_below(root, params.source), weights, facts.classes).float()
    assert isinstance(model.spec, ViTSpec)
    check_images(params.source, model.spec, facts)
    if not model.get_parameter("head.weight").any():
        print(
            f"{params.source}: it has no head for {facts.classes} classes, so it gets a new one, "
            "which knows nothing before baseline.epochs of training"
        )
    return model


def source_below(root: Path, source: str) -> str:
    """Return `source` with the whole path where it names a folder, relative to `root`, and not a model."""
    library, _, name = source.partition("/")
    folder = root / Path(name).expanduser()
    return f"{library}/{folder}" if folder.is_dir() else source


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
        wanted |= {"resize": spec.resize.size, "squash": spec.resize.squash}
        wanted |= {"interpolation": spec.resize.interpolation}
        found |= {"resize": facts.resize or facts.image_size, "squash": facts.squash}
        found |= {"interpolation": facts.interpolation}
    wrong = [key for key in wanted if wanted[key] != found[key]]
    if wrong:
        raise UserError(
            f"params.yaml: {_settings(found, wrong)}, but {source} was trained on images with "
            f"{_settings(wanted, wrong)}"
        )


def _settings(values: Mapping[str, int | bool | str], keys: list[str]) -> str:
    return ", ".join(f"data.{key}: {str(values[key]).lower()}" for key in keys)


START = Start(PretrainedParams, pretrained)
