"""From the text of params.yaml to checked sections, and back."""

from pathlib import Path
from typing import Any

from vtp.checked import checked, leaves
from vtp.errors import UserError
from vtp.params.sections import Params
from vtp.yaml import read_yaml


def load_params(path: Path) -> Params:
    """Read and check params.yaml.

    Raises UserError, one sentence, for a missing file, unknown or missing key, wrong type, a value out of
    range, or sections that contradict each other.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; copy one from configs/")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason})") from error
    return params_from_text(text, path)


def params_from_text(text: str, path: Path) -> Params:
    """Check the text of params.yaml; `path` is the file that errors name. Raises UserError as `load_params`."""
    params: Params = checked(Params, read_yaml(text, path), path.name)
    _check_together(params)
    return params


def flatten(params: Params) -> dict[str, Any]:
    """Return dotted key -> value: {"seed": 0, "data.name": "digits", …}."""
    return {key: value for key, _, value in leaves(params)}


def _check_together(params: Params) -> None:
    if params.decomp not in params.methods:
        raise UserError(
            f"params.yaml: decomp is {params.decomp!r}, but must be one of methods: {', '.join(params.methods)}"
        )
    if 0 < params.data.resize < params.data.image_size:
        raise UserError(
            f"params.yaml: data.resize is {params.data.resize}, but must be 0 or at least data.image_size, "
            f"which is {params.data.image_size}"
        )
    if params.training.crop_padding >= params.data.image_size:
        raise UserError(
            f"params.yaml: training.crop_padding is {params.training.crop_padding}, but must be below "
            f"data.image_size, which is {params.data.image_size}"
        )
    model = params.model
    model.check(params.data.image_size, params.training.batch_size)
    if not set(params.sparsify.sites) <= set(model.sites):
        raise UserError(
            f"params.yaml: sparsify.sites is {list(params.sparsify.sites)}, but model {model.name} has only "
            f"{', '.join(model.sites)}"
        )
    if not set(params.prune.rates) <= set(params.sparsify.sites):
        raise UserError(
            f"params.yaml: prune.rates is {params.prune.rates}, but only the sparsify.sites have scores: "
            f"{', '.join(params.sparsify.sites)}"
        )
    if params.decompose.budget == "latency" and not params.calibrate.batch:
        raise UserError(
            "params.yaml: decompose.budget is 'latency', but must be parameters or macs while calibrate.batch is "
            "0: no images are timed"
        )
