"""Which experiments `compare` sets side by side, and the table that it and `show` print."""

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commands.compare import _check_git, comparable, main
from commands.show import WIDTH, distinguish, table
from tests.conftest import ROOT
from vtp.errors import UserError
from vtp.params import Params, flatten, load_params
from vtp.tracking import Experiment

PARAMS = load_params(ROOT / "configs" / "digits.yaml")
CODE = frozenset({("stages/finetune.py", "0a"), ("vtp/models", "1b.dir")})
METRICS = {
    "test_accuracy": 0.97,
    "test_accuracy_dense": 0.98,
    "test_accuracy_pruned": 0.96,
    "test_accuracy_factorised": 0.5,
    "test_images": 359,
    "validation_accuracy": 0.95,
    "validation_images": 143,
    "parameters": 28257,
    "parameters_dense": 68814,
    "macs": 378250,
    "macs_dense": 765000,
}

TABLE = """\
val: validation accuracy (%) of the final model, n = 143 images
dense, pruned, fact, final: test accuracy (%) before, after pruning, factorising and fine-tuning, n = 359 images
params, MACs: those of the final model in % of the dense one's
differs in: where it names no other value, decompose.keep=0.3

| experiment           |         differs in | method | params |  MACs |   val | dense | pruned |  fact | final |
|----------------------|-------------------:|-------:|-------:|------:|------:|------:|-------:|------:|------:|
| a                    |                    |    svd |  41.06 | 49.44 | 95.00 | 98.00 |  96.00 | 50.00 | 97.00 |
| an-experi…-long-name | decompose.keep=0.5 |     qr |  41.06 | 49.44 | 95.00 | 98.00 |  96.00 | 50.00 | 97.00 |
| c                    |                    |    svd |  41.06 | 49.44 | 95.00 | 98.00 |  96.00 | 50.00 | 97.00 |
"""


def experiment(params: Params, name: str = "a", code: frozenset[tuple[str, str]] = CODE) -> Experiment:
    return Experiment(name, 0, flatten(params), METRICS, {}, {}, code)


def test_experiments_that_differ_in_method_and_machine_alone_are_comparable() -> None:
    qr = experiment(replace(PARAMS, decomp="qr", machine=replace(PARAMS.machine, threads=2)))
    svd = experiment(PARAMS)
    elsewhere = experiment(replace(PARAMS, decomp="lu", seed=1))
    older_code = experiment(replace(PARAMS, decomp="cod"), code=frozenset({("stages/finetune.py", "0b")}))
    assert comparable([qr, elsewhere, svd, older_code], PARAMS, CODE) == {"qr": qr, "svd": svd}


def test_the_last_of_comparable_experiments_counts() -> None:
    first, second = experiment(PARAMS), experiment(PARAMS, "b")
    assert comparable([first, second], PARAMS, CODE)["svd"].name == "b"


def test_the_table_has_a_row_for_each_experiment_and_says_what_its_columns_are() -> None:
    half = replace(PARAMS, decomp="qr", decompose=replace(PARAMS.decompose, keep=0.5))
    shown = [experiment(PARAMS), experiment(half, "an-experiment-of-a-long-name"), experiment(PARAMS, "c")]
    assert table(shown) == TABLE


@given(
    st.lists(
        st.tuples(
            st.text("abc-", min_size=1, max_size=60),
            st.sampled_from(PARAMS.methods),
            st.sampled_from([0.5, 0.25]),
            st.sampled_from([0.1, 0.123456789]),
            st.sampled_from(["data", "/a/long/path/to/a/folder/of/many/images"]),
        ),
        min_size=1,
        max_size=50,
    )
)
def test_however_many_experiments_and_long_names_the_table_fits(
    drawn: list[tuple[str, str, float, float, str]],
) -> None:
    shown = [
        experiment(
            replace(
                PARAMS,
                decomp=method,
                decompose=replace(PARAMS.decompose, keep=keep),
                sparsify=replace(PARAMS.sparsify, l1=l1),
                data=replace(PARAMS.data, path=path),
            ),
            name,
        )
        for name, method, keep, l1, path in drawn
    ]
    lines = table(shown).splitlines()
    assert len([line for line in lines if line.startswith("|")]) == 2 + len(shown)
    assert max(map(len, lines)) <= WIDTH


def test_differences_that_do_not_fit_stand_below_whole() -> None:
    def trained(rate: float, name: str) -> Experiment:
        data = replace(PARAMS.data, path="/home/me/photos")
        return experiment(replace(PARAMS, data=data, baseline=replace(PARAMS.baseline, learning_rate=rate)), name)

    shown = [*(experiment(PARAMS, name) for name in "aabb"), trained(0.001, "c"), trained(0.0005, "d")]
    shown += [trained(0.001, "e"), experiment(replace(PARAMS, seed=2), "f")]
    lines = table(shown).splitlines()
    cells = {line.split("|")[1].strip(): line.split("|")[2].strip() for line in lines if line.startswith("|")}
    assert [cells[name] for name in "bcdef"] == ["", "note 1", "note 2", "note 1", "seed=2"]
    assert lines[-3:] == [
        "",
        "note 1: path=/home/me/photos baseline.learning_rate=0.001",
        "note 2: path=/home/me/photos baseline.learning_rate=0.0005",
    ]


def test_values_that_differ_are_named_by_the_end_of_their_key_where_that_is_clear() -> None:
    settings = [
        {"seed": "0", "baseline.epochs": "4", "finetune.epochs": "1", "prune.rate": "0.3"},
        {"seed": "0", "baseline.epochs": "4", "finetune.epochs": "2", "prune.rate": "0.3"},
        {"seed": "0", "baseline.epochs": "4", "finetune.epochs": "1", "prune.rate": "0.5", "code": "x"},
        {"seed": "0", "baseline.epochs": "4", "finetune.epochs": "1", "prune.rate": "0.3"},
    ]
    assert distinguish(settings) == (
        "finetune.epochs=1 rate=0.3 code=-",
        ["", "finetune.epochs=2", "rate=0.5 code=x", ""],
    )


def test_figures_on_sets_of_different_sizes_are_labelled_with_each_size() -> None:
    large = replace(experiment(PARAMS, "large"), metrics=METRICS | {"test_images": 10000})
    assert "n = 359 or 10,000 images" in table([experiment(PARAMS), large])


def test_no_commit_and_no_identity_are_a_sentence_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_the_table_is_printed_whatever_becomes_of_the_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    finished = [experiment(replace(PARAMS, decomp=method), method) for method in PARAMS.methods]
    monkeypatch.setattr("commands.compare.load_params", lambda _: PARAMS)
    monkeypatch.setattr("commands.compare.repository_root", lambda: tmp_path)
    monkeypatch.setattr("commands.compare.params_changed", lambda _: [])
    monkeypatch.setattr("commands.compare.code_of_workspace", lambda _: CODE)
    monkeypatch.setattr("commands.compare.collect", lambda _: (finished, {}))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"^no MLflow server answers"):
        main()
    assert table(finished) == capsys.readouterr().out
