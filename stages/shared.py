"""What every stage shares: inputs, the device, and how errors end."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import torch
import yaml

from stages.paths import DATASET, LOCK, METRICS, model_path
from vtp.checkpoint import load
from vtp.data.dataset import Dataset, load_dataset
from vtp.devices import choose_device
from vtp.errors import UserError
from vtp.files import write_text
from vtp.models import Model
from vtp.params import Params

OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory")


def set_up(params: Params) -> torch.device:
    """Set the thread count and, on CUDA, deterministic kernels in full float32; return the device to work on."""
    torch.set_num_threads(params.machine.threads)
    device = choose_device(params.machine.device)
    if device.type == "cuda":  # on the CPU the kernels used are deterministic, and this call takes two seconds
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        # Nothing here reads what was not written; and the default of convolutions, TF32, has ten bits.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]
    return device


def load_data(device: torch.device) -> Dataset:
    """Return the data set with its three splits on `device`."""
    return load_dataset(DATASET).to(device)


def load_model(stage: str, dataset: Dataset, device: torch.device) -> Model:
    """Return the model that `stage` wrote, on `device`; raise UserError if it was made for other data."""
    return load_fitting(model_path(stage), dataset, device, "run the stages before this one again (dvc repro)")


def load_fitting(path: Path, dataset: Dataset, device: torch.device, advice: str) -> Model:
    """Return the model at `path`, on `device`; raise UserError, with the advice, if it is for other data."""
    model = load(path).to(device)
    made_for = (model.spec.channels, model.spec.image_size, model.spec.image_size, model.spec.classes)
    found = (*dataset.train.images.shape[1:], len(dataset.class_names))
    if made_for != found:
        raise UserError(
            f"{path}: made for images of {_text(made_for)}, but {DATASET} has {_text(found)}; {advice}"
        )
    return model


def _text(data: tuple[int, ...]) -> str:
    return f"{data[0]}×{data[1]}×{data[2]} and {data[3]} classes"


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
            "prune.images, calibrate.images or the section model"
        )
    except OSError as error:
        if error.filename is None:
            raise
        _end(f"{error.filename}: cannot be read or written ({error.strerror})")
    except KeyboardInterrupt:
        print("interrupted; what is finished is kept, and of a training each epoch", file=sys.stderr)
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
