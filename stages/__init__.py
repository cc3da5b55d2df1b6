"""The stages of the pipeline, one thin module each, and what they share: paths and how errors end."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import yaml

from vtp.errors import UserError
from vtp.files import write_text

PARAMS = Path("params.yaml")
LOCK = Path("dvc.lock")
DATASET = Path("out/dataset.safetensors")
METRICS = Path("metrics.json")
OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory")


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
        _end(str(error))
    except (MemoryError, RuntimeError) as error:
        # PyTorch has no error of its own for this on the CPU.
        if not (isinstance(error, MemoryError) or any(words in str(error) for words in OUT_OF_MEMORY)):
            raise
        _end(
            "there is not enough memory; try smaller values of training.batch_size, data.image_size, "
            "calibration_images or the section model"
        )
    except KeyboardInterrupt:
        print("interrupted; the next run goes on from the last finished epoch", file=sys.stderr)
        sys.exit(130)


def _end(sentence: str) -> NoReturn:
    print(f"error: {sentence}", file=sys.stderr, flush=True)
    _put_back_outputs()
    sys.exit(1)


def _put_back_outputs() -> None:
    """Check out what the stage had written before: DVC deletes a stage's outputs before it starts it."""
    # DVC started in another folder names the stage with the path of dvc.yaml before it.
    stage = os.environ.get("DVC_STAGE", "").rpartition(":")[2]
    if stage:
        subprocess.run(["dvc", "checkout", "--quiet", stage], capture_output=True, check=False)
        _put_back_metrics(stage)


def _put_back_metrics(stage: str) -> None:
    """Copy metrics.json, which `dvc checkout` leaves to git: the cache has it for DVC's record of runs."""
    try:
        outs = yaml.safe_load(LOCK.read_text(encoding="utf-8"))["stages"][stage]["outs"]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return  # no lock that can be read has the stage: it has not run yet
    for md5 in (out["md5"] for out in outs if out["path"] == str(METRICS)):
        found = subprocess.run(["dvc", "cache", "dir"], capture_output=True, text=True, check=False)
        cached = Path(found.stdout.strip(), "files", "md5", md5[:2], md5[2:])
        if not METRICS.exists() and cached.is_file():
            write_text(METRICS, cached.read_text(encoding="utf-8"))
