"""The finished experiments of the repository, read through DVC from any revision, cached files included."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.repo.brancher import switch
from dvc.scm import SCMError
from dvc.utils.serialize import parse_yaml

from stages import LOCK, METRICS, PARAMS, history_path
from stages.report import FOLDER
from vtp.errors import UserError
from vtp.params import Params, flatten, params_from_text
from vtp.tracking import Experiment

HISTORIES = {stage: history_path(stage) for stage in ("baseline", "sparsify", "finetune")}
WORKSPACE = "workspace"  # what DVC calls the revision that is no commit


def collect(root: Path) -> tuple[list[Experiment], dict[str, str]]:
    """Return what was run to its end, and name -> why for the experiments left out.

    Of equal results of equal code there is one; equal results of code that differs are all there.

    The experiments of `dvc exp run` on any commit come first, the oldest first; then the commits that they are
    based on and HEAD, and the workspace, wherever one of these holds a finished pipeline itself.

    Raises UserError if `root` is no DVC repository under git.
    """
    found: dict[tuple[str, bytes], Experiment] = {}
    left_out = {}
    try:
        with Repo(str(root)) as repo:
            bases = repo.experiments.ls(all_commits=True)
            names = {revision: name for pairs in bases.values() for name, revision in pairs}
            for revision in (
                *sorted(names, key=lambda revision: _time(repo, revision)),
                *_others(repo, bases),
            ):
                try:
                    experiment = _read(repo, revision, names.get(revision) or _name(repo, revision))
                    found.setdefault((experiment.key, experiment.artifacts[LOCK.name]), experiment)
                except UserError as error:
                    if revision in names:  # any other revision need not hold a finished pipeline
                        left_out[names[revision]] = str(error)
    except (DvcException, SCMError) as error:
        raise UserError(f"the experiments cannot be read: {error}") from error
    return list(found.values()), left_out


def _others(repo: Repo, bases: Iterable[str]) -> list[str]:
    """Return the commits `bases`, HEAD and the workspace, none twice."""
    head = [] if repo.scm.no_commits else [repo.scm.get_rev()]
    return [*dict.fromkeys([*bases, *head]), WORKSPACE]


def _name(repo: Repo, revision: str) -> str:
    if revision != WORKSPACE:
        return revision[:7]
    return WORKSPACE if repo.scm.no_commits else f"{WORKSPACE} at {repo.scm.get_rev()[:7]}"


def _time(repo: Repo, revision: str) -> int:
    if revision == WORKSPACE:
        return int((Path(repo.root_dir) / METRICS).stat().st_mtime)
    return int(repo.scm.resolve_commit(revision).commit_time)


def _read(repo: Repo, revision: str, name: str) -> Experiment:
    """Return what `revision` holds; raise UserError if that is no finished pipeline of this version."""
    with switch(repo, revision):
        try:
            return _read_files(repo.dvcfs, name, _time(repo, revision))
        except (DvcException, OSError, ValueError) as error:
            raise UserError(" ".join(str(error).split())) from error


def _read_files(files: Any, name: str, time: int) -> Experiment:
    content = {path: _bytes(files, path) for path in (PARAMS, LOCK, METRICS, *HISTORIES.values())}
    params = params_from_text(content[PARAMS].decode(), PARAMS)
    _check_finished(parse_yaml(content[LOCK].decode(), str(LOCK))["stages"], params, content)
    report = [Path(path) for path in files.ls(str(FOLDER), detail=False)]
    return Experiment(
        name=name,
        time=time,
        params=flatten(params),
        metrics=json.loads(content[METRICS]),
        histories={stage: json.loads(content[path]) for stage, path in HISTORIES.items()},
        artifacts={path.name: _bytes(files, path) for path in report}
        | {path.name: content[path] for path in (PARAMS, LOCK)},
    )


def _bytes(files: Any, path: Path) -> bytes:
    try:
        return bytes(files.read_bytes(str(path)))
    except FileNotFoundError as error:
        raise UserError(f"{path} is neither there nor in the cache") from error


def _check_finished(stages: Mapping[str, Any], params: Params, content: Mapping[Path, bytes]) -> None:
    """Raise UserError unless the stages in dvc.lock ran one after the other with `params` and wrote `content`.

    Code is not compared: a result stays the result of its parameters when the code has gone on.
    """
    decompositions = [f"decompose@{method}" for method in params.methods]
    needed = ["fetch", *HISTORIES, "prune", *decompositions, "evaluate", "report"]
    for name in needed:
        if name not in stages:
            raise UserError(f"its stage {name} has not run")
    written = {out["path"]: out["md5"] for name in needed for out in stages[name]["outs"]}
    wanted = _flat(flatten(params))
    for name in needed:
        read = stages[name].get("params", {}).get(str(PARAMS), {})
        ran, now = _flat(read), {key: wanted[key] for key in wanted if _is_below(key, read)}
        for key in {**ran, **now}:
            if key not in ran or key not in now or ran[key] != now[key]:
                raise UserError(f"its stage {name} has run with another {key}")
        for dependency in stages[name].get("deps", []):
            if dependency["md5"] != written.get(dependency["path"], dependency["md5"]):
                raise UserError(f"its stage {name} has run with another {dependency['path']}")
    for path, data in content.items():
        if hashlib.md5(data).hexdigest() != written.get(str(path), hashlib.md5(data).hexdigest()):
            raise UserError(f"{path} is not what its stage wrote")


def _is_below(key: str, sections: Iterable[str]) -> bool:
    return any(key == section or key.startswith(f"{section}.") for section in sections)


def _flat(section: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return dotted key -> value with lists for tuples, as dvc.lock has them."""
    flat: dict[str, Any] = {}
    for key, value in section.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat
