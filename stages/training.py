"""What baseline, sparsify and finetune share: the state of unfinished runs, its lock, and what is written."""

import hashlib
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from filelock import FileLock, Timeout

from stages.paths import PARAMS, history_path, model_path, repository_root
from stages.progress import shown
from stages.timings import note_training
from vtp.checkpoint import save
from vtp.data.dataset import Dataset
from vtp.files import write_json
from vtp.instructions import PORTABLE
from vtp.models import Model
from vtp.sealed import digest
from vtp.training.loop import Recipe, train

ROOT = Path(__file__).resolve().parents[1]
STATE, LOCK = "state.safetensors", "lock"  # in the folder of an unfinished run
# What decides how a run goes on; `dvc.yaml` names the same rooms.
CODE = (
    "stages/training.py",
    "vtp/data/augment.py",
    "vtp/data/batches.py",
    "vtp/measure.py",
    "vtp/models",
    "vtp/numerics.py",
    "vtp/scores.py",
    "vtp/training",
)


def run_training(model: Model, dataset: Dataset, recipe: Recipe, teacher: Model | None = None) -> None:
    """Train `model` as `recipe` says and write the stage's checkpoint and history.

    The state of an unfinished run lies in the real repository root, under a name made from everything that
    the run reads, so that only a run of the same model, data, recipe, code and kind of device goes on from it.
    """
    folder = resume_folder(repository_root()) / f"{recipe.stage}-{_key(model, dataset, recipe, teacher)}"
    folder.mkdir(parents=True, exist_ok=True)
    with _only_writer(folder, recipe.stage):
        state, params = folder / STATE, folder / PARAMS
        if not state.exists():
            shutil.copyfile(PARAMS, params)  # whose time is the start of the run, whatever interrupts it
        trained, history = train(
            model,
            dataset.train,
            dataset.validation,
            recipe,
            resume=state,
            watcher=shown(recipe.stage, recipe.epochs, len(dataset.train)),
            teacher=teacher,
        )
        save(trained, model_path(recipe.stage), dataset.class_names, dataset.resizing)
        write_json(history_path(recipe.stage), history)
        state.unlink(missing_ok=True)
        note_training(recipe.stage, params.stat().st_mtime)


def resume_folder(root: Path) -> Path:
    """Return the folder of unfinished runs, each a folder STAGE-KEY with `STATE`, `LOCK` and its params.yaml."""
    return root / ".vtp" / "resume"


def _key(model: Model, dataset: Dataset, recipe: Recipe, teacher: Model | None) -> str:
    rooms = [ROOT / name for name in CODE]
    code = [path for room in rooms for path in sorted([room, *room.rglob("*.py")]) if path.is_file()]
    parts = [
        digest(model.state_dict(), asdict(model.spec)),
        dataset.digest(),
        digest(teacher.state_dict() if teacher else {}, asdict(recipe)),
        # The number of threads is not among them: a long run may be given another.
        model.mean.device.type,
        *(os.environ.get(name, "") for name in PORTABLE),
        *(path.read_text(encoding="utf-8") for path in code),
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


@contextmanager
def _only_writer(folder: Path, stage: str) -> Iterator[None]:
    """Hold the lock of `folder`: a stage that outlived a killed `dvc` may still be at work there."""
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"{stage}: the same training is under way in another process; waiting for it", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
