"""verify: run the pipeline anew from HEAD and compare what it writes with HEAD's dvc.lock.

It runs in a temporary clone with an empty cache, so that every stage really runs. What is not committed takes no
part, but the data and models at relative paths, which git rarely has: the clone gets links to them. What the stage
`source` writes is not compared: times of files, which differ from one copy of the data to the next.
"""

import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stages.paths import LOCK, PARAMS, USERS_FILES, repository_root, users_path
from stages.shared import run_stage
from vtp.errors import UserError
from vtp.yaml import read_yaml

SHOWN = 20  # lines of output, when a stage fails


def main() -> None:
    """Say in one line that everything is as in dvc.lock; raise UserError with the first file that is not."""
    root = repository_root()
    with tempfile.TemporaryDirectory(prefix="vtp-verify-") as folder:
        clone = Path(folder, *root.parts[1:])  # as deep as the original, so that `../data` stays in the folder
        make_clone(root, clone)
        committed = _read_lock(clone)
        order = _reproduce(clone)
        print(compared(committed, _read_lock(clone), order))


def make_clone(root: Path, clone: Path) -> None:
    """Clone HEAD of `root`, with links to the data and weights that its params.yaml names by relative paths.

    Raises UserError if git cannot, or HEAD has no dvc.lock.
    """
    done = subprocess.run(["git", "clone", "--quiet", root, clone], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"verify: git cannot clone {root}: {' '.join(done.stderr.split())}")
    if not (clone / LOCK).is_file():
        raise UserError("verify: HEAD has no dvc.lock: dvc repro && git add -A && git commit -m run")
    params = read_yaml((clone / PARAMS).read_text(encoding="utf-8"), PARAMS)
    for path in filter(None, (users_path(params, key) for key in USERS_FILES)):
        if (root / path).exists() and not (clone / path).exists():
            (clone / path).parent.mkdir(parents=True, exist_ok=True)
            (clone / path).symlink_to(root / path)


def compared(committed: Mapping[str, Any], made: Mapping[str, Any], order: Sequence[str]) -> str:
    """Return one line that counts the outputs of the stages in `order`, all equal.

    Raises UserError with the first stage in `order`, and its file, that is another in `made` than in `committed`.
    """
    outputs = 0
    for stage in order:
        wanted = {out["path"]: out["md5"] for out in committed.get(stage, {"outs": []})["outs"]}
        for out in made[stage]["outs"]:
            if wanted.get(out["path"]) != out["md5"]:
                raise UserError(f"verify: stage {stage} has written another {out['path']} than dvc.lock has")
            outputs += 1
    return f"all {outputs} outputs of {len(order)} stages are those of dvc.lock"


def _read_lock(clone: Path) -> dict[str, Any]:
    stages: dict[str, Any] = read_yaml((clone / LOCK).read_text(encoding="utf-8"), LOCK)["stages"]
    return stages


def _reproduce(clone: Path) -> list[str]:
    """Run every stage in `clone`, a line for each that begins; return their names in order, without `source`."""
    command = ["dvc", "repro", "--force", "--no-run-cache", "--no-commit"]
    order, last = [], deque[str](maxlen=SHOWN)
    with subprocess.Popen(command, cwd=clone, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as done:
        for line in done.stdout or ():
            last.append(line)
            if line.startswith("Running stage '"):
                order.append(line.split("'")[1])
                print(f"verify: {order[-1]}", file=sys.stderr, flush=True)
    if done.returncode:
        print(*last, sep="", file=sys.stderr)
        raise UserError("verify: the pipeline failed in the clone; its last words stand above")
    return [stage for stage in order if stage != "source"]


if __name__ == "__main__":
    run_stage(main)
