"""report: the table of all methods and the plots, from the figures and models that the other stages wrote."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stages.paths import METRICS, PARAMS, history_path, model_path, report_path
from stages.shared import run_stage
from vtp.checkpoint import load_spec
from vtp.cost import macs, parameters
from vtp.files import read_json, write_text
from vtp.params import Params, load_params
from vtp.pictures import (
    plot_confusion,
    plot_curves,
    plot_errors,
    plot_kept,
    plot_methods,
    plot_ranks,
    plot_scores,
)
from vtp.report import count, markdown_table, percent

FOLDER = Path("out/report")
HEADER = ("method", "keep", "kept", "parameters", "MACs", "dense", "pruned", "factorised", "fine-tuned")


def main() -> None:
    """Read what all stages wrote; write the table and the plots."""
    params = load_params(PARAMS)
    metrics, prune = read_json(METRICS), read_json(report_path("prune"))
    methods = {method: read_json(report_path(f"decompose/{method}")) for method in params.methods}
    histories = {stage: read_json(history_path(stage)) for stage in ("baseline", "sparsify", "finetune")}
    before = prune["validation_accuracy"]
    write_text(FOLDER / "table.md", table(params, metrics, before, methods))
    chosen = {stage: chosen_epoch(stage, history) for stage, history in histories.items()}
    images = metrics["validation_images"]
    plot_curves(histories, chosen, images, FOLDER / "curves.png")
    units = {method: report["units"] for method, report in methods.items()}
    plot_errors(units, FOLDER / "errors.png")
    plot_ranks(units, FOLDER / "ranks.png")
    plot_kept(prune["sites"], FOLDER / "pruning.png")
    plot_scores(prune["sites"], FOLDER / "scores.png")
    confusion = read_json(report_path("evaluate"))["confusion"]
    confused = {"dense": confusion["dense"], f"{params.decomp}, fine-tuned": confusion["finetuned"]}
    plot_confusion(confused, images, FOLDER / "confusion.png")
    points = {method: point(method, report["validation_accuracy"]) for method, report in methods.items()}
    finetuned = points[params.decomp] | {"accuracy": metrics["validation_accuracy"]}
    steps = {step: before[step] for step in ("dense", "pruned")}
    plot_methods(points, steps, (params.decomp, finetuned), images, FOLDER / "methods.png")


def point(method: str, accuracy: float) -> dict[str, float]:
    """Return what `plot_methods` shows of a method: the costs of its model beside its accuracy."""
    spec = load_spec(model_path(f"decompose/{method}"))
    return {"accuracy": accuracy, "parameters": parameters(spec), "macs": macs(spec)}


def chosen_epoch(stage: str, history: Sequence[Mapping[str, float]]) -> int:
    """Return the epoch whose state a training stage gave: sparsify's last, of the others the last of the best."""
    if stage == "sparsify":
        return len(history) - 1
    return max(range(len(history)), key=lambda epoch: (history[epoch]["validation_accuracy"], epoch))


def table(
    params: Params, metrics: Mapping[str, Any], before: Mapping[str, float], methods: Mapping[str, Any]
) -> str:
    """Return the Markdown table, a row a method, and the test accuracy of the method that was fine-tuned.

    Args:
        params: of the run.
        metrics: what metrics.json holds.
        before: validation accuracy of the models `dense` and `pruned`.
        methods: method -> the report of its `decompose`.
    """
    dense = load_spec(model_path("baseline"))
    rows = []
    for method, report in methods.items():
        spec, budget = load_spec(model_path(f"decompose/{method}")), params.decompose.budget
        rows.append(
            (
                method,
                "-" if method == "none" else f"{params.decompose.keep:g}",
                f"{kept(report['units'], budget):.3f}",
                count(parameters(spec), parameters(dense)),
                count(macs(spec), macs(dense)),
                percent(before["dense"]),
                percent(before["pruned"]),
                percent(report["validation_accuracy"]),
                percent(metrics["validation_accuracy"] if method == params.decomp else None),
            )
        )
    test = {step: percent(metrics[f"test_accuracy_{step}"]) for step in ("dense", "pruned", "factorised")}
    return (
        f"Validation accuracy (%, {metrics['validation_images']:,} images) after each step; fine-tuned is the "
        f"method that `decomp` names.\nkeep and kept: the fraction of the blocks' {budget} asked for and "
        "reached.\n\n"
        + markdown_table(HEADER, rows)
        + f"\nTest accuracy with {params.decomp} ({metrics['test_images']:,} images): dense {test['dense']} %, "
        f"pruned {test['pruned']} %, factorised {test['factorised']} %, "
        f"fine-tuned {percent(metrics['test_accuracy'])} %.\n"
    )


def kept(units: Sequence[Mapping[str, Any]], budget: str) -> float:
    """Return the fraction of the units' cost, in `parameters` or `macs`, that is left of it."""
    left, whole = (sum(float(unit[key]) for unit in units) for key in (budget, f"{budget}_dense"))
    return left / whole


if __name__ == "__main__":
    run_stage(main)
