"""Save and load models: one sealed file of kind `spec`, a model's spec, weights, class names and resizing."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vtp.data.dataset import Resizing
from vtp.errors import UserError
from vtp.models import Model, ModelSpec, from_state, spec_from_plain, spec_to_plain
from vtp.models.vit.spec import ViTSpec
from vtp.sealed import read_content, read_sealed, write_sealed


def save(
    model: Model, path: Path | str, class_names: Sequence[str] = (), resizing: Resizing | None = None
) -> None:
    """Write `model`, the names of its classes and how images come to its size, if given, to `path`.

    The file is written whole or not at all. Equal models, names and resizing give equal bytes.
    """
    parts = {"class_names": list(class_names), "resizing": resizing.plain() if resizing else {}}
    given = {name: part for name, part in parts.items() if part}
    spec = spec_to_plain(model.spec)
    write_sealed(Path(path), "spec", {"spec": spec} | given if given else spec, model.state_dict())


def load(path: Path | str) -> Model:
    """Return the model that `save` wrote to `path`: on the CPU, in evaluation mode, in the dtype it was saved in.

    Raises UserError, one sentence, if the file is missing, cut short, altered, or not a checkpoint of a model.
    """
    content, tensors = read_sealed(Path(path), "spec")
    spec = spec_from_plain(_parts(content)["spec"], str(path))
    try:
        return from_state(spec, tensors)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def load_spec(path: Path | str) -> ModelSpec:
    """Return the spec of the model at `path` without reading its weights; raise UserError as `load`."""
    return spec_from_plain(_parts(read_content(Path(path), "spec"))["spec"], str(path))


def load_class_names(path: Path | str) -> tuple[str, ...]:
    """Return the names of the classes of the model at `path`, or their numbers where it was saved without names.

    Raises UserError as `load`.
    """
    names = _parts(read_content(Path(path), "spec")).get("class_names")
    return tuple(names or (str(index) for index in range(load_spec(path).classes)))


def load_resizing(path: Path | str) -> Resizing:
    """Return how images of any size become those that the model at `path` was trained on.

    What was saved with it; else, of a pretrained model, what its source does; else both sides are resized to the
    model's, bilinearly. Raises UserError as `load`.
    """
    spec, saved = load_spec(path), _parts(read_content(Path(path), "spec")).get("resizing", {})
    if not saved and isinstance(spec, ViTSpec) and spec.resize:
        return Resizing(spec.image_size, spec.resize.size, spec.resize.squash, spec.resize.interpolation)
    return Resizing(spec.image_size, **saved)


def _parts(content: Any) -> dict[str, Any]:
    """Return what a checkpoint holds by its names: with neither class names nor resizing, it is the spec alone."""
    return content if isinstance(content, dict) and "spec" in content else {"spec": content}
