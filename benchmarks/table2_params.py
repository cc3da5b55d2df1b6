"""What params.yaml holds of a row of Table 2, and what of it results/table2.json tells."""

import argparse
import json
import re
from pathlib import Path
from typing import Any

from benchmarks.table2_report import ROOT, Row
from stages.paths import PARAMS, model_path
from vtp.errors import UserError
from vtp.models.vit.pretrained.params import OWN
from vtp.params import flatten, params_from_text
from vtp.yaml import read_yaml

NOT_TOLD = (
    "seed",
    "methods",
    "decomp",
    "data.path",
    "machine.device",
    "machine.threads",
    "decompose.keep",
)  # each cell has its own, or none has; the number of threads may change between two goes
SEED_OF_FOLDER = re.compile(r"(\.\./\w+-[0-9a-f]{8})-\d+/")  # in the path of a model that another row has made


def content_of(row: Row, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Return what params.yaml of a row holds, as plain data."""
    path = ROOT / "configs" / f"{row.config}.yaml"
    content: dict[str, Any] = read_yaml(path.read_text(encoding="utf-8"), path)
    changes = {"seed": seed, "machine.threads": 1, "training.compile": True, **row.changes}
    if options.data:
        changes |= {"data.name": "imagefolder", "data.path": str(options.data.resolve())}
    for key, value in changes.items():
        put(content, key, value)
    for stage in ("baseline", "sparsify", "finetune"):
        content[stage]["epochs"] = max(1, round(content[stage]["epochs"] * options.epochs))
    for key, text in asked(options).items():
        put(content, key, read_yaml(text, path))
    return content


def asked(options: argparse.Namespace) -> dict[str, str]:
    """Return key -> value of `--set`, as YAML; raise UserError if the seed is among them."""
    found = {key: value for key, _, value in (text.partition("=") for text in options.set)}
    if "seed" in found:
        raise UserError(f"--set has seed={found['seed']}, but folders and results are by --seeds {found['seed']}")
    return found


def put(content: dict[str, Any], key: str, value: Any) -> None:
    """Set `section.key` of the content of params.yaml; raise UserError if there can be no such key."""
    section, _, name = key.rpartition(".")
    place = content.setdefault(section, {}) if section else content
    if not isinstance(place, dict):
        raise UserError(f"--set has {key}, but {section} is no section of params.yaml")
    place[name] = value


def told(content: dict[str, Any]) -> dict[str, Any]:
    """Return what results tell of the content of a row's params.yaml, by dotted key: the same for each seed."""
    params = flatten(params_from_text(json.dumps(content), PARAMS))
    return {
        key: SEED_OF_FOLDER.sub(r"\1/", value) if isinstance(value, str) else value
        for key, value in params.items()
        if key not in NOT_TOLD
    }


def beside(folder: Path) -> str:
    """Return the path of the dense model in the folder of a row, from that of another."""
    return f"../{folder.name}/{model_path('baseline')}"


def begun_with(model: dict[str, Any], before: Path) -> dict[str, Any]:
    """Return a section `model` that begins with the dense model in `before`, for the patches of `model`."""
    return {
        "name": "pretrained",
        "source": f"{OWN}/{beside(before)}",
        "weights": None,
        "patch_size": model["patch_size"],
        "patch_dropout": model["patch_dropout"],
    }
