"""Which experiments `make compare` sets side by side, and which results count as finished."""

import hashlib
import subprocess
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from stages.compare import _check_git, comparable, table
from stages.experiments import HISTORIES, _check_finished, collect
from vtp.errors import UserError
from vtp.params import Params, flatten, load_params
from vtp.tracking import Experiment

DIGITS = load_params(Path(__file__).parent.parent / "configs" / "digits.yaml")
PARAMS = replace(DIGITS, decompose=replace(DIGITS.decompose, keep=0.5), prune=replace(DIGITS.prune, rate=0.3))
CODE = "stages/finetune.py"
METRICS = {
    "accuracy": 0.97,
    "accuracy_dense": 0.98,
    "accuracy_pruned": 0.96,
    "accuracy_factorised": 0.5,
    "parameters": 28257,
    "parameters_dense": 68814,
    "macs": 378250,
    "macs_dense": 765000,
}


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def experiment(params: Params, code: bytes = b"x = 1\n") -> Experiment:
    lock = {"stages": {"finetune": {"deps": [{"path": CODE, "md5": md5(code)}]}}}
    artifacts = {"dvc.lock": yaml.safe_dump(lock).encode()}
    return Experiment("a", 0, flatten(params), METRICS, {}, artifacts)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "stages").mkdir()
    (tmp_path / CODE).write_bytes(b"x = 1\n")
    return tmp_path


def test_experiments_that_differ_in_the_method_alone_are_comparable(root: Path) -> None:
    qr = experiment(replace(PARAMS, decomp="qr"))
    svd = experiment(PARAMS)
    elsewhere = experiment(replace(PARAMS, decomp="lu", seed=1))
    older_code = experiment(replace(PARAMS, decomp="cod"), code=b"x = 2\n")
    assert comparable([qr, elsewhere, svd, older_code], PARAMS, root) == {"qr": qr, "svd": svd}


def test_the_last_of_equal_experiments_counts(root: Path) -> None:
    first, second = experiment(PARAMS), replace(experiment(PARAMS), name="b")
    assert comparable([first, second], PARAMS, root)["svd"].name == "b"


def test_the_table_has_a_row_for_each_method_in_the_order_of_params() -> None:
    params = replace(PARAMS, methods=("none", "svd"))
    experiments = {method: experiment(replace(params, decomp=method)) for method in ("svd", "none")}
    assert table(experiments, params) == (
        "| method | keep |    parameters |           MACs | dense | pruned | factorised | fine-tuned |\n"
        "|--------|-----:|--------------:|---------------:|------:|-------:|-----------:|-----------:|\n"
        "| none   |    - | 28,257 (41 %) | 378,250 (49 %) | 98.00 |  96.00 |      50.00 |      97.00 |\n"
        "| svd    |  0.5 | 28,257 (41 %) | 378,250 (49 %) | 98.00 |  96.00 |      50.00 |      97.00 |\n"
    )


def finished() -> tuple[dict[str, Any], Params, dict[Path, bytes]]:
    """Stages of a dvc.lock, the parameters they ran with, and the files that they wrote."""
    params = replace(PARAMS, methods=("svd",))
    names = ["fetch", *HISTORIES, "prune", "decompose@svd", "evaluate", "report"]
    stages: dict[str, Any] = {name: {"outs": [{"path": f"out/{name}", "md5": name}]} for name in names}
    content = {}
    for stage, path in HISTORIES.items():
        content[path] = f"history of {stage}".encode()
        stages[stage]["outs"].append({"path": str(path), "md5": md5(content[path])})
    stages["prune"]["params"] = {"params.yaml": {"prune": asdict(params.prune)}}
    stages["sparsify"]["params"] = {"params.yaml": {"data.image_size": 8, "methods": ["svd"]}}
    stages["sparsify"]["deps"] = [{"path": "out/fetch", "md5": "fetch"}, {"path": "code.py", "md5": "any"}]
    return stages, params, content


def test_a_finished_pipeline_passes() -> None:
    _check_finished(*finished())


def test_what_is_not_finished_is_named() -> None:
    stages, params, content = finished()
    with pytest.raises(UserError, match=r"^its stage report has not run$"):
        _check_finished({name: stages[name] for name in stages if name != "report"}, params, content)
    with pytest.raises(UserError, match=r"^its stage prune has run with another prune.rate$"):
        _check_finished(stages, replace(params, prune=replace(params.prune, rate=0.25)), content)
    with pytest.raises(UserError, match=r"^its stage prune has run with another prune.rates.mlp.hidden$"):
        _check_finished(stages, replace(params, prune=replace(params.prune, rates={"mlp.hidden": 0.9})), content)
    history = HISTORIES["finetune"]
    with pytest.raises(UserError, match=r"^out/finetune/history.json is not what its stage wrote$"):
        _check_finished(stages, params, content | {history: b"other"})
    stages["sparsify"]["deps"][0]["md5"] = "older"
    with pytest.raises(UserError, match=r"^its stage sparsify has run with another out/fetch$"):
        _check_finished(stages, params, content)


def test_no_repository_no_commit_and_no_identity_are_a_sentence_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="experiments cannot be read"):
        collect(tmp_path)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.example"]
    subprocess.run([*git, "init", "-q"], cwd=tmp_path, check=True)
    with pytest.raises(UserError, match="nothing is committed yet"):
        _check_git(tmp_path)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "start"], cwd=tmp_path, check=True)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    subprocess.run(["git", "config", "user.useConfigOnly", "true"], cwd=tmp_path, check=True)
    with pytest.raises(UserError, match="git does not know you"):
        _check_git(tmp_path)
