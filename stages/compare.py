"""compare: one experiment a method, and one table of them all. No stage of the pipeline.

Each method runs by `dvc exp run --temp`: in a copy, so that the workspace stays as it is, with everything that
does not depend on the method taken from the cache. A method whose result is there already, from an experiment,
a commit or the workspace with today's parameters and code, is not run again.
"""

import hashlib
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from stages import LOCK, PARAMS, repository_root, run_stage
from stages.experiments import collect
from vtp.errors import UserError
from vtp.params import Params, flatten, load_params
from vtp.report import count, markdown_table, percent
from vtp.tracking import Experiment, publish

CODE = ("stages", "vtp")
HEADER = ("method", "keep", "parameters", "MACs", "dense", "pruned", "factorised", "fine-tuned")


def main() -> None:
    """Run what is missing, publish everything, print the table."""
    params, root = load_params(PARAMS), repository_root()
    experiments, left_out = collect(root)
    present = comparable(experiments, params, root)
    missing = [method for method in params.methods if method not in present]
    if missing:
        _check_git(root)
        for method in missing:
            _run(method, root)
        experiments, left_out = collect(root)
        present = comparable(experiments, params, root)
    publish(experiments, root)
    for method in params.methods:
        if method not in present:
            reasons = "".join(f"; {name} was left out: {reason}" for name, reason in left_out.items())
            raise UserError(f"compare: method {method} has run, but its experiment cannot be found{reasons}")
    print("Test accuracy (%) after each step, one experiment a method.\n")
    print(table(present, params), end="")


def comparable(experiments: Sequence[Experiment], params: Params, root: Path) -> dict[str, Experiment]:
    """Return method -> its last experiment that has the code in `root` and, but for `decomp`, the parameters."""
    wanted = flatten(params) | {"decomp": None}
    return {
        experiment.params["decomp"]: experiment
        for experiment in experiments
        if dict(experiment.params) | {"decomp": None} == wanted and _same_code(experiment, root)
    }


def table(experiments: dict[str, Experiment], params: Params) -> str:
    """Return the Markdown table with a row for each of the methods, in the order of params.yaml."""
    rows = []
    for method in params.methods:
        metrics = experiments[method].metrics
        rows.append(
            (
                method,
                "-" if method == "none" else f"{params.decompose.keep:g}",
                count(int(metrics["parameters"]), int(metrics["parameters_dense"])),
                count(int(metrics["macs"]), int(metrics["macs_dense"])),
                *(percent(metrics[f"accuracy_{step}"]) for step in ("dense", "pruned", "factorised")),
                percent(metrics["accuracy"]),
            )
        )
    return markdown_table(HEADER, rows)


def _same_code(experiment: Experiment, root: Path) -> bool:
    """Say whether all code that its stages ran, as dvc.lock has it, is in `root` what it was."""
    locked = yaml.safe_load(experiment.artifacts[LOCK.name])["stages"]
    methods = {f"decompose@{method}" for method in experiment.params["methods"]}
    # DVC leaves the stages of methods that are no longer asked for in the lock.
    ran = [stage for name, stage in locked.items() if "@" not in name or name in methods]
    read = {(dep["path"], dep["md5"]) for stage in ran for dep in stage["deps"]}
    return all(_digest(root / path) == md5 for path, md5 in read if Path(path).parts[0] in CODE)


def _digest(path: Path) -> str | None:
    """The MD5 that dvc.lock gives a file or a folder; None if there is none."""
    if path.is_file():
        return hashlib.md5(path.read_bytes()).hexdigest()
    files = {file.relative_to(path).as_posix(): file for file in path.rglob("*") if file.is_file()}
    listed = [
        {"md5": _digest(files[name]), "relpath": name}
        for name in sorted(files)
        if not name.endswith(".pyc")  # as .dvcignore says
    ]
    return f"{hashlib.md5(json.dumps(listed, sort_keys=True).encode()).hexdigest()}.dir" if listed else None


def _check_git(root: Path) -> None:
    """Raise UserError where DVC could not make an experiment: it is a commit, on top of another."""
    for command, remedy in (
        ("rev-parse --verify HEAD", "nothing is committed yet: git add -A && git commit -m start"),
        (
            "var GIT_COMMITTER_IDENT",
            "git does not know you: git config user.name NAME && git config user.email EMAIL",
        ),
    ):
        done = subprocess.run(["git", *command.split()], cwd=root, capture_output=True, check=False)
        if done.returncode:
            raise UserError(f"compare: an experiment is a git commit, but {remedy}")


def _run(method: str, root: Path) -> None:
    command = ["dvc", "exp", "run", "--temp", "-S", f"decomp={method}"]
    print(f"compare: {' '.join(command)}", file=sys.stderr, flush=True)
    done = subprocess.run(command, cwd=root, stdout=sys.stderr, check=False)
    if done.returncode:
        raise UserError(f"compare: the experiment of method {method} failed; its message stands above")


if __name__ == "__main__":
    run_stage(main)
