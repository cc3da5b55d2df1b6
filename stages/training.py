"""What baseline, sparsify and finetune share: device and threads, resume state and its lock, progress."""

import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from tqdm import tqdm

from stages import DATASET, history_path, model_path, repository_root
from vtp.checkpoint import digest, load, save
from vtp.data.dataset import Dataset, load_dataset
from vtp.errors import UserError
from vtp.files import write_json
from vtp.models import Model, spec_to_plain
from vtp.params import Params
from vtp.resume import Record
from vtp.train import Recipe, choose_device, train


def set_up(params: Params) -> torch.device:
    """Set the thread count and, on CUDA, deterministic kernels; return the device to work on."""
    torch.set_num_threads(params.training.threads)
    device = choose_device(params.training.device)
    if device.type == "cuda":  # on the CPU the kernels used are deterministic, and this call takes two seconds
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    return device


def load_data(device: torch.device) -> Dataset:
    """Return the data set with its three splits on `device`."""
    return load_dataset(DATASET).to(device)


def load_model(stage: str, dataset: Dataset, device: torch.device) -> Model:
    """Return the model that `stage` wrote, on `device`; raise UserError if it was made for other data."""
    model = load(model_path(stage)).to(device)
    made_for = (model.spec.channels, model.spec.image_size, model.spec.image_size, model.spec.classes)
    found = (*dataset.train.images.shape[1:], len(dataset.class_names))
    if made_for != found:
        raise UserError(
            f"{model_path(stage)}: made for images of {_text(made_for)}, but {DATASET} has {_text(found)}; "
            "run the stages before this one again (dvc repro)"
        )
    return model


def _text(data: tuple[int, ...]) -> str:
    return f"{data[0]}×{data[1]}×{data[2]} and {data[3]} classes"


def run_training(model: Model, dataset: Dataset, recipe: Recipe, teacher: Model | None = None) -> None:
    """Train `model` as `recipe` says and write the stage's checkpoint and history.

    The state of an unfinished run lies in the real repository root, under a name made from everything that
    the run reads, so that only a run of the same model, data, recipe and code goes on from it.
    """
    folder = repository_root() / ".vtp" / "resume" / f"{recipe.stage}-{_key(model, dataset, recipe, teacher)}"
    folder.mkdir(parents=True, exist_ok=True)
    with _only_writer(folder, recipe.stage):
        state = folder / "state.safetensors"
        trained, history = train(
            model,
            dataset.train,
            dataset.validation,
            recipe,
            resume=state,
            report=_progress(recipe),
            teacher=teacher,
        )
        save(trained, model_path(recipe.stage))
        write_json(history_path(recipe.stage), history)
        state.unlink()


def _key(model: Model, dataset: Dataset, recipe: Recipe, teacher: Model | None) -> str:
    parts = [
        digest(model.state_dict(), spec_to_plain(model.spec)),
        dataset.digest(),
        digest(teacher.state_dict() if teacher else {}, asdict(recipe)),
        *(path.read_text() for path in sorted(Path("vtp").rglob("*.py"))),
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


@contextmanager
def _only_writer(folder: Path, stage: str) -> Iterator[None]:
    """Hold the lock of `folder`: a stage that outlived a killed `dvc` may still be at work there."""
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"{stage}: the same training is under way in another process; waiting for it", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _progress(recipe: Recipe) -> Callable[[Record, int], None]:
    """Return what to call after each epoch: a bar on a terminal, else a line an epoch."""
    if sys.stderr.isatty():
        return _bar(recipe)
    start = time.monotonic()
    first: list[int] = []

    def line(record: Record, epochs: int) -> None:
        epoch = int(record["epoch"])
        first.append(epoch)
        left = (time.monotonic() - start) / len(first) * (epochs - epoch)
        print(
            f"{recipe.stage}: epoch {epoch}/{epochs}  loss {record['loss']:.4f}  "
            f"validation accuracy {record['validation_accuracy']:.4f}  {left:.0f} s left",
            flush=True,
        )

    return line


def _bar(recipe: Recipe) -> Callable[[Record, int], None]:
    bar = tqdm(total=recipe.epochs, desc=recipe.stage, unit="epoch")

    def update(record: Record, epochs: int) -> None:
        bar.n = int(record["epoch"])
        bar.set_postfix(loss=f"{record['loss']:.4f}", val=f"{record['validation_accuracy']:.4f}")
        if bar.n == epochs:
            bar.close()

    return update
