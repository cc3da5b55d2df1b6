"""The paper's Table 2, measured: runs each cell that is missing, then writes table and picture of docs/results.md.

    python -m benchmarks.table2 resnet18 --data ARCHIVE --work FOLDER [--seeds 0 1 2] [--set model.width=64]
    python -m benchmarks.table2                 # runs nothing: the table anew from results/table2.json

A row is one size of model and one budget, at most half of the dense model's parameters, the same for every method.
The stages of the pipeline do the work, in folders of their own: one for the dense model and its scores, and in it
one for each rate of pruning and one for each method. What is done is not done again, and a training that was
stopped goes on from its last epoch, so this may be killed and called again at will, and called once more for
another core: a cell that one call works on, the others leave to it. It runs at low priority.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from benchmarks.table2_params import asked, begun_with, beside, content_of, put, told
from benchmarks.table2_plot import plot_table2
from benchmarks.table2_record import LOCK, SECONDS, pruned_folder, record, twin
from benchmarks.table2_report import METHODS, PICTURE, RESULTS, ROOT, ROWS, write_document
from stages.paths import DATASET, METRICS, MOMENTS, PARAMS, history_path, model_path
from stages.shared import run_stage
from vtp.checkpoint import load, load_spec
from vtp.cost import parameters
from vtp.files import read_json, write_json, write_text
from vtp.instructions import PORTABLE
from vtp.models import factorisable

BUDGET = 0.5  # of the dense model's parameters
MADE_ONCE = (DATASET, model_path("baseline").parent, model_path("sparsify").parent)  # in a row, whatever the cell
MINUTE = 60.0  # seconds: a go that is killed has told at most that much too little
OF_PATCHES = ("model.patch_size=", "model.patch_dropout=")  # which a row has whatever it begins with
NOT_FACTORISED = ("none", "evd")  # EVD is of square matrices, and a pruned model has none


def main() -> None:
    """Run what is missing of the rows that are asked for, a cell at a time, and write results and table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.table2")
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"some of {', '.join(ROWS)}")
    parser.add_argument(
        "--data", type=Path, help="archive or folder of the images; without it CIFAR is downloaded"
    )
    parser.add_argument("--work", type=Path, default=Path(".vtp/table2"), help="folder for all that is made")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=float, default=1.0, help="factor of the numbers of epochs")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="other values of parameters")
    options = parser.parse_args()
    if not set(options.rows) <= set(ROWS):
        parser.error(f"rows are {', '.join(ROWS)}")
    os.nice(19)
    for name in options.rows:
        told(content_of(ROWS[name], 0, options))  # refuses what `--set` may not say before hours have gone
    for name in options.rows:
        for seed in options.seeds:
            run_row(name, seed, options)
    write_document()
    plot_table2(read_json(RESULTS), PICTURE)


def run_row(name: str, seed: int, options: argparse.Namespace) -> None:
    """Run what is missing of one row with one seed."""
    folder, content = train_dense(name, seed, options)
    with FileLock(folder / LOCK):
        stage(folder, "sparsify", history_path("sparsify"))
    prepare_cells(name, content, folder)
    for method in METHODS:
        finish_cell(method, folder)
        record(name, told(content), seed, folder)


def train_dense(name: str, seed: int, options: argparse.Namespace) -> tuple[Path, dict[str, Any]]:
    """Train the dense model of a row, after those that it begins with and learns from, unless that is done.

    Return its folder, whose name has a digest of the parameters and the seed, and what its params.yaml holds.
    """
    row, content = ROWS[name], content_of(ROWS[name], seed, options)
    if row.after:
        before = train_before(row.after, seed, options, "machine.", "model.")
        content["model"] = begun_with(content["model"], before)
    if row.teacher and "baseline.teacher" not in asked(options):
        content["baseline"]["teacher"] = beside(train_before(row.teacher, seed, options, "machine."))
    digest = hashlib.sha256(json.dumps(told(content), default=str).encode()).hexdigest()[:8]
    folder = options.work.resolve() / f"{name}-{digest}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / LOCK):
        start(folder, content)
        stage(folder, "fetch", DATASET)
        stage(folder, "baseline", history_path("baseline"))
    return folder, content


def train_before(name: str, seed: int, options: argparse.Namespace, *kept: str) -> Path:
    """Return the folder of the dense model of a row that another needs; of `--set` it has the keys of `kept`."""
    texts = [text for text in options.set if text.startswith(kept) and not text.startswith(OF_PATCHES)]
    return train_dense(name, seed, argparse.Namespace(**vars(options) | {"set": texts}))[0]


def prepare_cells(name: str, content: dict[str, Any], shared: Path) -> None:
    """Factorise by each method what the folder `shared` has, pruned, or wait for the call that is at it."""
    for seconds in (0, -1):  # that none waits while there is a cell left; -1 is for as long as it takes
        for method in METHODS:
            folder = shared / method
            folder.mkdir(exist_ok=True)
            if not (folder / model_path(f"decompose/{method}")).exists():
                with suppress(Timeout), FileLock(folder / LOCK, timeout=seconds):
                    prepare_cell(name, method, content, shared)


def prepare_cell(name: str, method: str, content: dict[str, Any], shared: Path) -> None:
    """Factorise by one method what the folder `shared` has, pruned, unless that is done."""
    folder, made = shared / method, model_path(f"decompose/{method}")
    pruned = prune_cells(name, method, content, shared)
    link(folder, pruned, *MADE_ONCE, model_path("prune").parent, MOMENTS.parent)
    start(folder, read_json(pruned / PARAMS) | {"methods": [method], "decomp": method})
    stage(folder, f"decompose {method}", made)


def prune_cells(name: str, method: str, content: dict[str, Any], shared: Path) -> Path:
    """Return the folder with the pruned model and its moments for one method, and others of the same rate."""
    content = deepcopy(content)
    if method in NOT_FACTORISED:
        put(content, "prune.rate", ROWS[name].rate)
    folder = pruned_folder(shared, content)
    folder.mkdir(exist_ok=True)
    with FileLock(folder / LOCK):
        if (folder / MOMENTS).exists():
            return folder
        link(folder, shared, *MADE_ONCE)
        start(folder, content)
        stage(folder, "prune", model_path("prune"))
        if method not in NOT_FACTORISED:
            put(content, "decompose.keep", keep_within_budget(folder))
            start(folder, content)
        stage(folder, "calibrate", MOMENTS)
    return folder


def link(folder: Path, source: Path, *made: Path) -> None:
    """Let `folder` have what the stages have made in `source`."""
    for path in made:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        if not (folder / path).exists():
            (folder / path).symlink_to(source / path)


def finish_cell(method: str, shared: Path) -> None:
    """Fine-tune and measure a model, unless another method made the same or another call is at it."""
    folder = shared / method
    if twin(shared, method) != method:
        return
    with suppress(Timeout), FileLock(folder / LOCK, timeout=0):
        own, today = read_json(folder / PARAMS), read_json(shared / PARAMS)
        start(folder, own | {key: today[key] for key in ("data", "machine")})
        stage(folder, "finetune", history_path("finetune"))
        stage(folder, "evaluate", METRICS)


def start(folder: Path, content: dict[str, Any]) -> None:
    """Write params.yaml of a folder; JSON is YAML."""
    write_text(folder / PARAMS, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def stage(folder: Path, command: str, made: Path) -> None:
    """Run a stage in `folder` unless it has made its last file; all its goes count in `SECONDS`."""
    if (folder / made).exists():
        return
    print(f"{folder.name}: {command}", flush=True)
    # This process itself may have been kept to other instructions than params.yaml asks for.
    environment = {key: value for key, value in os.environ.items() if key not in PORTABLE}
    name, seconds = command.split()[0], read_json(folder / SECONDS) if (folder / SECONDS).exists() else {}
    begin = time.monotonic() - seconds.get(name, 0.0)
    arguments = [sys.executable, "-m", *f"stages.{command}".split()]
    process = subprocess.Popen(arguments, cwd=folder, env=environment | {"PYTHONPATH": str(ROOT)})
    while True:
        write_json(folder / SECONDS, seconds | {name: round(time.monotonic() - begin, 1)})
        if process.poll() is not None:
            break
        with suppress(subprocess.TimeoutExpired):
            process.wait(MINUTE)
    if process.returncode != 0:
        sys.exit(process.returncode)


def keep_within_budget(folder: Path) -> float:
    """Return the largest `decompose.keep`, of three digits, with which the pruned model meets the budget."""
    slim, dense = load(folder / model_path("prune")), load_spec(folder / model_path("baseline"))
    inside = sum(layer.weight.numel() for layer in factorisable(slim).values())
    outside = parameters(slim.spec) - inside
    return min(1.0, int(1000 * (BUDGET * parameters(dense) - outside) / inside) / 1000)


if __name__ == "__main__":
    run_stage(main)
