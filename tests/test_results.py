"""docs/results.md: its tables are those that results/*.json give, and each result keeps to its budget."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.table2 import BUDGET
from benchmarks.table2_params import begun_with, beside, content_of, told
from benchmarks.table2_plot import plot_table2
from benchmarks.table2_record import SECONDS, pruned_folder, record
from benchmarks.table2_report import BEGIN, DOCUMENT, END, METHODS, PICTURE, RESULTS, ROWS, table2
from stages.paths import METRICS, PARAMS, model_path
from tests.params import parse
from vtp.errors import UserError
from vtp.files import read_json, write_json, write_text

PLAIN = Namespace(data=None, set=[], epochs=1.0)


def test_the_published_table_2_is_made_from_its_results() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    published = text.partition(BEGIN)[2].partition(END)[0]
    assert published.strip() == table2(read_json(RESULTS)).strip()


def test_the_published_picture_is_made_from_its_results(tmp_path: Path) -> None:
    plot_table2(read_json(RESULTS), tmp_path / "table2.png")
    assert (tmp_path / "table2.png").read_bytes() == PICTURE.read_bytes()


def test_every_cell_of_table_2_keeps_to_the_budget_of_its_row() -> None:
    for name, row in read_json(RESULTS).items():
        assert name in ROWS
        assert set(row["cells"]) <= set(METHODS)
        for runs in row["cells"].values():
            assert len({run["seed"] for run in runs}) == len(runs)
            assert all(run["parameters"] <= BUDGET * run["parameters_dense"] for run in runs)


def run(accuracy: float, **changes: Any) -> dict[str, Any]:
    figures = {"test_accuracy": accuracy, "test_accuracy_dense": 0.7, "test_accuracy_factorised": accuracy - 0.1}
    sizes = {"parameters": 500, "parameters_dense": 1001, "macs": 2_000_000, "macs_dense": 4_100_000}
    return figures | sizes | changes


def test_a_table_has_the_mean_and_spread_of_seeds_and_the_papers_figures() -> None:
    cells = {"svd": [run(0.6), run(0.62)], "lu": [run(0.5)]}
    lines = [line.split("|")[1:-1] for line in table2({"patch4": {"cells": cells}}).splitlines()]
    header, _, *body = [[cell.strip() for cell in line] for line in lines]
    rows = {line[1]: dict(zip(header, line, strict=True)) for line in body}
    assert body[0][0] == "ViT, patch 4, n = 1 to 2"
    assert rows["fine-tuned, %"]["SVD"] == "61.00 ± 1.41"
    assert rows["fine-tuned, %"]["LU"] == "50.00"
    assert rows["before, %"]["LU"] == "40.00"
    assert rows["fine-tuned, %"]["Cholesky"] == "-"
    assert {name: rows["the paper, %"][name] for name in ("dense", "SVD", "LU")} == {
        "dense": "80",
        "SVD": "62.8",
        "LU": "57.1",
    }
    assert rows["parameters"]["dense"] == "1,001"
    assert rows["MACs, M"]["SVD"] == "2.0"


@pytest.mark.parametrize("name", ROWS)
def test_a_row_has_valid_parameters_and_columns_that_exist(name: str) -> None:
    options = Namespace(data=Path("archive.tar.xz"), set=["prune.rate=0.4"], epochs=0.5)
    content = content_of(ROWS[name], 3, options)
    if before := ROWS[name].after:
        assert ROWS[before].config == ROWS[name].config
        content["model"] = begun_with(content["model"], Path(f"{before}-0"))
    assert ROWS[name].teacher in ("", *ROWS)
    params = parse(content)
    assert (params.seed, params.data.name, params.prune.rate) == (3, "imagefolder", 0.4)
    assert params.baseline.epochs == pytest.approx(
        content_of(ROWS[name], 3, PLAIN)["baseline"]["epochs"] / 2, abs=1
    )
    assert set(ROWS[name].paper) <= {"dense", *METHODS}


def row_content(name: str, seed: int, before: str) -> dict[str, Any]:
    """Return the content of params.yaml of a row that begins with another's model, and learns from it."""
    content = content_of(ROWS[name], seed, PLAIN)
    content["model"] = begun_with(content["model"], Path(f"{before}-{seed}"))
    content["baseline"]["teacher"] = beside(Path(f"{before}-{seed}"))
    return content


def test_the_seeds_of_a_row_that_needs_another_stand_in_its_cells_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = tmp_path / "table2.json"
    monkeypatch.setattr("benchmarks.table2_record.RESULTS", results)

    def record_done(seed: int, before: str) -> list[int]:
        content = row_content("patch2", seed, before)
        shared = tmp_path / f"patch2-{before}-{seed}"
        for folder in (shared, pruned_folder(shared, content), shared / "svd"):
            write_json(folder / SECONDS, {})
        write_json(shared / "svd" / PARAMS, content)
        write_json(shared / "svd" / METRICS, {"test_accuracy": 0.5})
        for method in METHODS:
            write_text(shared / method / model_path(f"decompose/{method}"), f"the model that {method} makes")
        record("patch2", told(content), seed, shared)
        return [cell["seed"] for cell in read_json(results)["patch2"]["cells"]["svd"]]

    assert record_done(1, "patch4-0123abcd") == [1]
    assert record_done(0, "patch4-0123abcd") == [0, 1]
    assert record_done(0, "patch4-0123abcd") == [0, 1]
    assert record_done(2, "patch4-4567abcd") == [2]  # what it begins with is another model


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        ("trainig.flip", r"unknown key trainig; allowed here are"),
        ("seed", r"--set has seed=1, but folders and results are by --seeds 1"),
        ("seed.x", r"--set has seed.x, but seed is no section of params.yaml"),
    ],
)
def test_a_key_that_a_row_does_not_have_is_refused_in_one_sentence(key: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        told(content_of(ROWS["patch8"], 0, Namespace(**vars(PLAIN) | {"set": [f"{key}=1"]})))
