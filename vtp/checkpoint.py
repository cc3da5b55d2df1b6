"""Save and load models: one sealed file of kind `spec`, the model's spec and its weights."""

from pathlib import Path

from vtp.errors import UserError
from vtp.models import Model, ModelSpec, from_state, spec_from_plain, spec_to_plain
from vtp.sealed import read_content, read_sealed, write_sealed


def save(model: Model, path: Path) -> None:
    """Write `model` to `path`, whole or not at all. Equal models give equal bytes."""
    write_sealed(path, "spec", spec_to_plain(model.spec), model.state_dict())


def load(path: Path | str) -> Model:
    """Return the model that `save` wrote to `path`: on the CPU, in evaluation mode, in the dtype it was saved in.

    Raises UserError, one sentence, if the file is missing, cut short, altered, or not a checkpoint of a model.
    """
    plain, tensors = read_sealed(Path(path), "spec")
    spec = spec_from_plain(plain, str(path))
    try:
        return from_state(spec, tensors)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def load_spec(path: Path) -> ModelSpec:
    """Return the spec of the model at `path` without reading its weights; raise UserError as `load`."""
    return spec_from_plain(read_content(path, "spec"), str(path))
