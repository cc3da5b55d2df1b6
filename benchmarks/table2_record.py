"""What results/table2.json holds of a row: read from the folder in which its cells were made."""

import filecmp
import json
from pathlib import Path
from typing import Any

from filelock import FileLock

from benchmarks.table2_report import METHODS, RESULTS
from benchmarks.timing import machine
from stages.paths import METRICS, PARAMS, model_path
from vtp.files import read_json, write_json

SECONDS = "seconds.json"  # of the stages that ran in a folder
LOCK = ".lock"  # of a folder that a call works in


def record(name: str, told: dict[str, Any], seed: int, shared: Path) -> None:
    """Put the cells of a seed that are done into results/table2.json; runs with other parameters go."""
    common = json.loads(json.dumps(told))
    with FileLock(shared.parent / LOCK):
        results = read_json(RESULTS) if RESULTS.exists() else {}
        row = results.get(name)
        if row is None or row["params"] != common:
            row = {"data": data_name(common["data.name"]), "hardware": machine(), "params": common, "cells": {}}
        for method in METHODS:
            same = twin(shared, method)
            if (shared / same / METRICS).exists():
                others = [cell for cell in row["cells"].get(method, []) if cell["seed"] != seed]
                cells = [*others, cell_of(method, same, seed, shared)]
                row["cells"][method] = sorted(cells, key=lambda cell: cell["seed"])
        write_json(RESULTS, results | {name: row})


def cell_of(method: str, same: str, seed: int, shared: Path) -> dict[str, Any]:
    """Return what results/table2.json holds of a cell; `same` is the method whose model was trained for it."""
    params = read_json(shared / method / PARAMS)
    folders = (shared, pruned_folder(shared, params), shared / method)
    return {
        "seed": seed,
        **read_json(shared / same / METRICS),
        "rate": params["prune"]["rate"],
        "keep": params["decompose"]["keep"],
        "same_as": same if same != method else None,
        "seconds": {key: value for folder in folders for key, value in read_json(folder / SECONDS).items()},
    }


def pruned_folder(shared: Path, content: dict[str, Any]) -> Path:
    """Return the folder of what all cells of a rate share; `content` is that of the params.yaml of one of them."""
    return shared / f"rate-{content['prune']['rate']}"


def twin(shared: Path, method: str) -> str:
    """Return the first method that made the same model as `method`; fine-tuned they would be the same, too."""
    own = shared / method / model_path(f"decompose/{method}")
    others = ((other, shared / other / model_path(f"decompose/{other}")) for other in METHODS)
    return next(other for other, path in others if path.exists() and filecmp.cmp(path, own, shallow=False))


def data_name(source: str) -> str:
    """Return what results call the images of a data source."""
    return {"cifar10": "CIFAR-10", "imagefolder": "CIFAR-10 (JPEG copy)"}.get(source, source)
