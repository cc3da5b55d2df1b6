"""The stages of the pipeline, one thin module each, and what they share: paths and how errors end."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import yaml

from vtp.errors import UserError
from vtp.files import write_text

PARAMS = Path("params.yaml")
LOCK = Path("dvc.lock")
DATASET = Path("out/dataset.safetensors")
METRICS = Path("metrics.json")


def model_path(stage: str) -> Path:
    """Return the checkpoint that `stage` writes; stages of `decompose` are named `decompose/METHOD`."""
    return Path("out") / stage / "model.safetensors"


def report_path(stage: str) -> Path:
    """Return the JSON file of figures that `stage` writes beside its checkpoint."""
    return Path("out") / stage / "report.json"


def history_path(stage: str) -> Path:
    """Return the JSON file with one record an epoch that a training stage writes."""
    return Path("out") / stage / "history.json"


def repository_root() -> Path:
    """Return the real repository root: temporary and queued experiments run in a copy that is deleted."""
    return Path(os.environ.get("DVC_ROOT", ".")).resolve()


def run_stage(main: Callable[[], None]) -> None:
    """Run a stage; print a user's error as one line on stderr and exit with status 1, Ctrl-C with 130."""
    try:
        main()
    except UserError as error:
        _put_back_outputs()
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("interrupted; the next run goes on from the last finished epoch", file=sys.stderr)
        sys.exit(130)


def _put_back_outputs() -> None:
    """Check out what the stage had written before: DVC deletes a stage's outputs before it starts it."""
    if stage := os.environ.get("DVC_STAGE"):
        subprocess.run(["dvc", "checkout", "--quiet", stage], capture_output=True, check=False)
        _put_back_uncached(stage)


def _put_back_uncached(stage: str) -> None:
    """Copy what `dvc checkout` leaves to git, metrics.json: the cache has it for DVC's record of runs."""
    found = subprocess.run(["dvc", "cache", "dir"], capture_output=True, text=True, check=False)
    locked = yaml.safe_load(LOCK.read_text(encoding="utf-8"))["stages"].get(stage, {"outs": []})
    for out in locked["outs"]:
        path, md5 = Path(out["path"]), out["md5"]
        cached = Path(found.stdout.strip(), "files", "md5", md5[:2], md5[2:])
        if not path.exists() and cached.is_file():
            write_text(path, cached.read_text(encoding="utf-8"))
