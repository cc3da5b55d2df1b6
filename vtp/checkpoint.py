"""Save and load models: one sealed file of kind `spec`, a model's spec, weights and class names."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vtp.errors import UserError
from vtp.models import Model, ModelSpec, from_state, spec_from_plain, spec_to_plain
from vtp.sealed import read_content, read_sealed, write_sealed


def save(model: Model, path: Path, class_names: Sequence[str] = ()) -> None:
    """Write `model` and the names of its classes, if given, to `path`, whole or not at all.

    Equal models and names give equal bytes.
    """
    spec = spec_to_plain(model.spec)
    content = {"spec": spec, "class_names": list(class_names)} if class_names else spec
    write_sealed(path, "spec", content, model.state_dict())


def load(path: Path | str) -> Model:
    """Return the model that `save` wrote to `path`: on the CPU, in evaluation mode, in the dtype it was saved in.

    Raises UserError, one sentence, if the file is missing, cut short, altered, or not a checkpoint of a model.
    """
    content, tensors = read_sealed(Path(path), "spec")
    spec = spec_from_plain(_parts(content)[0], str(path))
    try:
        return from_state(spec, tensors)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def load_spec(path: Path) -> ModelSpec:
    """Return the spec of the model at `path` without reading its weights; raise UserError as `load`."""
    return spec_from_plain(_parts(read_content(path, "spec"))[0], str(path))


def load_class_names(path: Path) -> tuple[str, ...]:
    """Return the names of the classes of the model at `path`, or their numbers where it was saved without names.

    Raises UserError as `load`.
    """
    plain, names = _parts(read_content(path, "spec"))
    return tuple(names) or tuple(str(index) for index in range(spec_from_plain(plain, str(path)).classes))


def _parts(content: Any) -> tuple[Any, Sequence[str]]:
    """Return the spec and the class names of what a checkpoint holds: without names, it is the spec alone."""
    is_named = isinstance(content, dict) and "class_names" in content
    return (content["spec"], content["class_names"]) if is_named else (content, ())
