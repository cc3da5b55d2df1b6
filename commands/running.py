"""The trainings under way in this repository, as their resume states have them; no stage does anything for it."""

from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from stages.paths import PARAMS
from stages.training import LOCK, STATE, resume_folder
from vtp.errors import UserError
from vtp.params import flatten, load_params
from vtp.sealed import read_content
from vtp.tracking import Training
from vtp.training.resume import KIND


def trainings(root: Path) -> list[Training]:
    """Return the trainings that a process is at work on and that have finished an epoch."""
    found = []
    for state in sorted(resume_folder(root).glob(f"*/{STATE}")):
        if _is_held(state.with_name(LOCK)):
            with suppress(UserError, OSError):  # it has ended since, or began with another version of this project
                found.append(_training(state))
    return found


def _training(state: Path) -> Training:
    params = state.with_name(str(PARAMS))
    history, _ = read_content(state, KIND)
    return Training(
        key=state.parent.name,
        stage=state.parent.name.rpartition("-")[0],
        start=params.stat().st_mtime,
        params=flatten(load_params(params)),
        history=history,
    )


def _is_held(path: Path) -> bool:
    """Say whether another process holds the lock; a stage that asks for it in this moment waits for that long."""
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True
