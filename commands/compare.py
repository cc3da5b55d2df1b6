"""compare: one experiment a method, and one table of them all.

Each method runs by `dvc exp run --temp`: in a copy, so that the workspace stays as it is, with everything that
does not depend on the method taken from the cache. A method whose result is there already, from an experiment,
a commit or the workspace with today's parameters and code, is not run again.
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from commands.experiments import Code, code_of_workspace, collect, params_changed
from commands.show import table
from stages.paths import PARAMS, repository_root
from stages.shared import run_stage
from vtp.errors import UserError
from vtp.params import Params, flatten, load_params
from vtp.tracking import Experiment, publish


def main() -> None:
    """Run what is missing, print the table, publish everything."""
    params, root = load_params(PARAMS), repository_root()
    if changed := params_changed(root):
        print(
            f"compare: params.yaml is not that of HEAD: {', '.join(changed)}; `git checkout params.yaml` goes "
            "back, and `dvc exp run --temp` leaves the file alone",
            file=sys.stderr,
        )
    code = code_of_workspace(root)
    experiments, left_out = collect(root)
    present = comparable(experiments, params, code)
    missing = [method for method in params.methods if method not in present]
    if missing:
        _check_git(root)
        for method in missing:
            _run(method, root)
        experiments, left_out = collect(root)
        present = comparable(experiments, params, code)
    for method in params.methods:
        if method not in present:
            reasons = "".join(f"; {name} was left out: {reason}" for name, reason in left_out.items())
            raise UserError(f"compare: method {method} has run, but its experiment cannot be found{reasons}")
    print(table([present[method] for method in params.methods]), end="", flush=True)
    publish(experiments, root)


def comparable(experiments: Sequence[Experiment], params: Params, code: Code) -> dict[str, Experiment]:
    """Return method -> its last experiment of that code with, but for `decomp` and `machine`, those parameters."""

    def what(flat: dict[str, object]) -> dict[str, object]:
        return {key: value for key, value in flat.items() if key != "decomp" and not key.startswith("machine.")}

    return {
        experiment.params["decomp"]: experiment
        for experiment in experiments
        if experiment.code == code and what(dict(experiment.params)) == what(flatten(params))
    }


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
