"""The finished experiments of the repository, as DVC reads them from any revision, cached files included."""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dvc.dependency import ParamsDependency
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.repo.brancher import switch
from dvc.scm import SCMError
from dvc_data.index import DataIndexDirError

from stages.paths import LOCK, METRICS, PARAMS, history_path, model_path
from stages.timings import flat, span, timings_path, training_times
from vtp.errors import UserError
from vtp.files import read_json
from vtp.params import flatten, params_from_text
from vtp.tracking import FIGURES, Experiment

REPORT = Path("out/report")
EXPORT = Path("out/export")
HISTORIES = {stage: history_path(stage) for stage in ("baseline", "sparsify", "finetune")}
Code = frozenset[tuple[str, str]]  # (path below stages/ or vtp/, the hash that DVC gives it)
CODE = ("stages", "vtp")
WORKSPACE = "workspace"  # what DVC calls the revision that is no commit


def collect(root: Path) -> tuple[list[Experiment], dict[str, str]]:
    """Return what was run to its end, and name -> why for the experiments left out.

    Of equal results of equal code there is one; equal results of code that differs are all there.

    The experiments of `dvc exp run` on any commit come first, the oldest first; then the commits that they are
    based on and HEAD, and the workspace, wherever one of these holds a finished pipeline itself.

    Raises UserError if `root` is no DVC repository under git.
    """
    found: dict[tuple[str, Code], Experiment] = {}
    left_out = {}
    with _repository(root) as repo:
        bases = repo.experiments.ls(all_commits=True)
        names = {commit: name for pairs in bases.values() for name, commit in pairs}
        for revision in (*sorted(names, key=lambda commit: _time(repo, commit)), *_others(repo, bases)):
            try:
                experiment = _read(repo, root, revision, names.get(revision) or _name(repo, revision))
                found.setdefault((experiment.key, experiment.code), experiment)
            except UserError as error:
                if revision in names:  # any other revision need not hold a finished pipeline
                    left_out[names[revision]] = str(error)
    return list(found.values()), left_out


def code_of_workspace(root: Path) -> Code:
    """Return the code that the stages would run now; raise UserError if DVC cannot tell."""
    with _repository(root) as repo:
        return frozenset((dep.def_path, dep.get_hash().value) for dep in repo.index.deps if _is_code(dep))


def params_changed(root: Path) -> list[str]:
    """Return the keys of params.yaml that are not as in HEAD, with both values: `prune.rate 0.3 -> 0.5`."""
    with _repository(root) as repo:
        changed = repo.params.diff().get("diff", {}).get(str(PARAMS), {})
    return [f"{key} {values.get('old')} -> {values.get('new')}" for key, values in changed.items()]


@contextmanager
def _repository(root: Path) -> Iterator[Repo]:
    try:
        with Repo(str(root)) as repo:
            yield repo
    except (DvcException, SCMError, OSError) as error:
        raise UserError(f"the experiments cannot be read: {_line(error)}") from error


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


def _read(repo: Repo, root: Path, revision: str, name: str) -> Experiment:
    """Return what `revision` holds; raise UserError if that is no finished pipeline of this version.

    `root` is the folder of the repository, which `repo` forgets while it is switched to a commit.
    """
    with switch(repo, revision):
        files = repo.dvcfs
        try:
            params = params_from_text(files.read_text(str(PARAMS)), PARAMS)
            _check_finished(repo, repo.fs if revision == WORKSPACE else files)
            metrics = json.loads(files.read_bytes(str(METRICS)))
            if missing := set(FIGURES) - metrics.keys():
                raise UserError(f"{METRICS} lacks {', '.join(sorted(missing))}")
            artifacts = (str(PARAMS), str(LOCK), *files.ls(str(REPORT), detail=False))
            written = _checkpoints(repo)
            times = training_times(root, written)
            return Experiment(
                name=name,
                time=_time(repo, revision),
                span=span(root, times),
                params=flatten(params),
                metrics=metrics,
                histories={stage: json.loads(files.read_bytes(str(path))) for stage, path in HISTORIES.items()},
                artifacts={Path(path).name: files.read_bytes(path) for path in artifacts},
                code=frozenset((dep.def_path, dep.hash_info.value) for dep in repo.index.deps if _is_code(dep)),
                timings=_latency(root, written["finetune"])
                | {f"seconds/{stage}": end - start for stage, (start, end) in times.items()},
                exported=Exported(repo, root, revision),
            )
        except FileNotFoundError as error:
            raise UserError(f"{error.filename} is neither there nor in the cache") from error
        except DataIndexDirError as error:  # the list of a folder's files
            raise UserError("a folder that its stages wrote is neither there nor in the cache") from error
        except (DvcException, OSError, ValueError) as error:
            raise UserError(_line(error)) from error


class Exported(Mapping[str, bytes]):
    """The files that `export` wrote at a revision, by their paths in its folder; each is read when asked for."""

    def __init__(self, repo: Repo, root: Path, revision: str) -> None:
        """`repo`, that of `root`, is switched to the revision. Raises FileNotFoundError if a file is lost."""
        self.root, self.revision = root, revision
        paths = list(repo.dvcfs.find(str(EXPORT)))
        for path in paths:
            repo.dvcfs.open(path).close()
        self.names = [str(Path(path).relative_to(EXPORT)) for path in paths]

    def __getitem__(self, name: str) -> bytes:
        if name not in self.names:
            raise KeyError(name)
        with _repository(self.root) as repo, switch(repo, self.revision):
            content: bytes = repo.dvcfs.read_bytes(str(EXPORT / name))
        return content

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def _checkpoints(repo: Repo) -> dict[str, str]:
    """Return training stage -> the MD5 of the checkpoint that dvc.lock has of it."""
    written = {out.def_path: out.hash_info.value for out in repo.index.outs}
    return {stage: written[str(model_path(stage))] for stage in HISTORIES}


def _latency(root: Path, md5: str) -> dict[str, float]:
    """Return what `evaluate` measured on this machine of the fine-tuned model of this MD5, if it has."""
    path = timings_path(root, md5)
    return flat(read_json(path)) if path.is_file() else {}


def _check_finished(repo: Repo, files: Any) -> None:
    """Raise UserError unless the stages in dvc.lock ran one after the other with the parameters of the revision.

    Code is not compared: a result stays the result of its parameters when the code has gone on.

    Args:
        repo: switched to the revision.
        files: the file system in which DVC looks for what the stages read and wrote.
    """
    for stage in repo.index.stages:
        if not all(out.hash_info for out in stage.outs):
            raise UserError(f"its stage {stage.name} has not run")
        for did, items in (("run with", stage.deps), ("written", stage.outs)):
            for item in items:
                if _is_code(item):
                    continue
                if not isinstance(item, ParamsDependency):
                    item.fs = files
                for path, status in item.workspace_status().items():
                    other = path if isinstance(status, str) else ", ".join(status)
                    raise UserError(f"its stage {stage.name} has {did} another {other}")


def _is_code(item: Any) -> bool:
    return Path(item.def_path).parts[0] in CODE


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
