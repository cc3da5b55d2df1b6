"""report: the table of all methods and the plots, from the figures that the other stages wrote."""

from pathlib import Path
from typing import Any

from stages import METRICS, PARAMS, history_path, report_path, run_stage
from vtp.files import read_json, write_text
from vtp.params import Params, load_params
from vtp.report import (
    count,
    markdown_table,
    percent,
    plot_curves,
    plot_errors,
    plot_kept,
    plot_methods,
    plot_scores,
)

FOLDER = Path("out/report")
HEADER = ("method", "keep", "kept", "parameters", "MACs", "dense", "pruned", "factorised", "fine-tuned")


def main() -> None:
    """Read the reports of all stages; write the table and the plots."""
    params = load_params(PARAMS)
    metrics, prune = read_json(METRICS), read_json(report_path("prune"))
    methods = {method: read_json(report_path(f"decompose/{method}")) for method in params.methods}
    histories = {stage: read_json(history_path(stage)) for stage in ("baseline", "sparsify", "finetune")}
    best = max(record["validation_accuracy"] for record in histories["finetune"])
    before = prune["validation_accuracy"]
    write_text(FOLDER / "table.md", table(params, metrics, prune, methods, best))
    plot_curves(histories, FOLDER / "curves.png")
    plot_errors({method: report["layers"] for method, report in methods.items()}, FOLDER / "errors.png")
    plot_kept(prune["sites"], FOLDER / "pruning.png")
    plot_scores(prune["sites"], FOLDER / "scores.png")
    accuracies = {method: report["validation_accuracy"] for method, report in methods.items()}
    plot_methods(accuracies, before["dense"], before["pruned"], FOLDER / "methods.png")


def table(
    params: Params, metrics: dict[str, Any], prune: dict[str, Any], methods: dict[str, Any], best: float
) -> str:
    """Return the Markdown table, a row a method, and the test accuracy of the method that was fine-tuned."""
    before = prune["validation_accuracy"]
    rows = []
    for method, report in methods.items():
        chosen = method == params.decomp
        rows.append(
            (
                method,
                "-" if method == "none" else f"{params.decompose.keep:g}",
                f"{report['kept'][params.decompose.budget]:.3f}",
                count(report["parameters"], prune["parameters"]["dense"]),
                count(report["macs"], prune["macs"]["dense"]),
                percent(before["dense"]),
                percent(before["pruned"]),
                percent(report["validation_accuracy"]),
                percent(best if chosen else None),
            )
        )
    return (
        "Validation accuracy (%) after each step; fine-tuned is the method that `decomp` names.\n"
        f"keep and kept: the fraction of the blocks' {params.decompose.budget} asked for and reached.\n\n"
        + markdown_table(HEADER, rows)
        + f"\nTest accuracy with {params.decomp}: dense {percent(metrics['accuracy_dense'])} %, "
        f"pruned {percent(metrics['accuracy_pruned'])} %, factorised {percent(metrics['accuracy_factorised'])} %, "
        f"fine-tuned {percent(metrics['accuracy'])} %.\n"
    )


if __name__ == "__main__":
    run_stage(main)
