"""The rows and columns of the paper's Table 2, and the table of docs/results.md out of results/table2.json."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vtp.errors import UserError
from vtp.files import existing, read_json, write_text
from vtp.report import markdown_table

ROOT = Path(__file__).resolve().parents[1]
RESULTS, DOCUMENT = ROOT / "results" / "table2.json", ROOT / "docs" / "results.md"
PICTURE = ROOT / "docs" / "table2.png"
BEGIN, END = "<!-- table 2: written by benchmarks.table2 -->", "<!-- end of table 2 -->"
METHODS = {
    "none": "VTP",
    "svd": "SVD",
    "qr_full": "QR full",
    "qr_reduced": "QR reduced",
    "qr_pivoted": "QR pivoted",
    "cod": "QR complete",
    "lu": "LU",
    "cholesky": "Cholesky",
    "evd": "EVD",
}


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        title: of the model.
        config: the file in configs/ that has its parameters.
        paper: the paper's accuracy (%) by column; it has one QR, and what it calls the dense model is its VTP.
        changes: keys that have other values here.
        rate: of pruning where no factors follow: what it takes to meet the budget.
        after: the row with whose dense model its own begins, resampled for other patches; none where it is empty.
        teacher: the row from whose dense model its own learns as well; none where it is empty.
    """

    title: str
    config: str
    paper: Mapping[str, float]
    changes: Mapping[str, Any] = field(default_factory=dict)
    rate: float = 0.52
    after: str = ""
    teacher: str = ""


def _paper(vtp: float, svd: float, qr: float, lu: float) -> dict[str, float]:
    return {"dense": vtp, "none": vtp, "svd": svd, "qr_pivoted": qr, "lu": lu}


MUON = {
    "training.optimizer": "muon",
    "training.batch_size": 128,
    "baseline.learning_rate": 0.001,
    "sparsify.learning_rate": 0.0001,
    "finetune.learning_rate": 0.0001,
}
# Epochs for hours on one core of a CPU; with a GPU `--epochs` and `--set` make runs longer and models larger.
ROWS = {
    "patch2": Row(
        "ViT, patch 2",
        "cifar10-small",
        _paper(80, 85.0, 71.1, 63.7),
        {
            **MUON,
            "model.patch_size": 2,
            "model.patch_dropout": 0.5,
            "training.trivial_augment": 0.5,
            "baseline.epochs": 10,
            "baseline.learning_rate": 0.0004,
            "sparsify.epochs": 1,
            "finetune.epochs": 1,
            "finetune.learning_rate": 0.0004,  # not MUON's, and so at patch 4: what is cut much is trained more
        },
        after="patch4",
        teacher="resnet18",
    ),
    "patch4": Row(
        "ViT, patch 4",
        "cifar10-small",
        _paper(80, 62.8, 68.3, 57.1),
        {
            **MUON,
            "model.patch_size": 4,
            "model.patch_dropout": 0.5,
            "training.trivial_augment": 0.5,
            "baseline.epochs": 50,
            "baseline.learning_rate": 0.002,
            "sparsify.epochs": 2,
            "finetune.epochs": 2,
            "finetune.learning_rate": 0.0004,
        },
        teacher="resnet18",
    ),
    "patch8": Row("ViT, patch 8", "cifar10-small", _paper(30, 53.2, 53.5, 52.3), MUON),
    "resnet18": Row(
        "ResNet-18",
        "cifar10-resnet18",
        _paper(93, 53.2, 53.5, 49.2),
        {
            "model.width": 32,
            "training.trivial_augment": 1.0,
            "baseline.epochs": 30,
            "sparsify.epochs": 2,
            "sparsify.learning_rate": 0.0005,
            "prune.threshold": "layer",
            "finetune.epochs": 2,
            "finetune.learning_rate": 0.0005,
        },
    ),
}


def write_document() -> None:
    """Put the table of the results between its marks in docs/results.md."""
    text = existing(DOCUMENT).read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise UserError(f"{DOCUMENT.name}: the lines {BEGIN!r} and {END!r} are missing")
    table = table2(read_json(RESULTS))
    write_text(DOCUMENT, f"{before}{BEGIN}\n\n{table}\n{END}{after}")
    print(table, end="")


def table2(results: Mapping[str, Any]) -> str:
    """Return the Markdown table of what results/table2.json holds: five lines a model, a column a method."""
    lines = [line for name, row in ROWS.items() if name in results for line in _lines(row, results[name]["cells"])]
    return markdown_table(("model", "", "dense", *METHODS.values()), lines)


def _lines(row: Row, cells: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[tuple[str, ...]]:
    """Return the lines of one model; `cells` are method -> the runs of each seed."""
    dense = max(cells.values(), key=len)

    def line(name: str, of_dense: str, key: str, text: Callable[[list[float]], str]) -> tuple[str, ...]:
        found = [[run[key] for run in cells.get(method, ())] for method in METHODS]
        return (
            "",
            name,
            text([run[of_dense] for run in dense]),
            *(text(values) if values else "-" for values in found),
        )

    paper = ["-" if method not in row.paper else f"{row.paper[method]:g}" for method in ("dense", *METHODS)]
    lines = [
        line("fine-tuned, %", "test_accuracy_dense", "test_accuracy", percents),
        line("before, %", "test_accuracy_dense", "test_accuracy_factorised", percents),
        ("", "the paper, %", *paper),
        line("parameters", "parameters_dense", "parameters", lambda values: f"{statistics.mean(values):,.0f}"),
        line("MACs, M", "macs_dense", "macs", lambda values: f"{statistics.mean(values) / 1e6:.1f}"),
    ]
    fewest, most = (size(map(len, cells.values())) for size in (min, max))
    seeds = f"{most}" if fewest == most else f"{fewest} to {most}"
    return [(f"{row.title}, n = {seeds}", *lines[0][1:]), *lines[1:]]


def percents(fractions: Sequence[float]) -> str:
    """Return the mean of fractions in percent, with their standard deviation where there are several."""
    mean = f"{100 * statistics.mean(fractions):.2f}"
    return mean if len(fractions) == 1 else f"{mean} ± {100 * statistics.stdev(fractions):.2f}"
