"""report: table, pictures and page of all methods, from the figures and models that the other stages wrote."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stages.page import Table, blocks_table, dense_table, nats, predicted_loss, render, units_table
from stages.paths import DATASET, METRICS, PARAMS, history_path, model_path, report_path
from stages.shared import run_stage
from vtp.checkpoint import load_spec
from vtp.cost import macs, parameters
from vtp.data.dataset import load_dataset
from vtp.files import read_json, write_text
from vtp.params import Params, load_params
from vtp.pictures import (
    plot_confusion,
    plot_curves,
    plot_differences,
    plot_errors,
    plot_kept,
    plot_methods,
    plot_ranks,
    plot_scores,
    plot_spectra,
)
from vtp.report import count, markdown_table, percent

FOLDER = Path("out/report")
History = Sequence[Mapping[str, float]]
HEADER = ("method", "keep", "kept", "parameters", "MACs", "dense", "pruned", "factorised", "fine-tuned")


def main() -> None:
    """Read what all stages wrote; write the table, the pictures and the page of both."""
    params = load_params(PARAMS)
    metrics, prune = read_json(METRICS), read_json(report_path("prune"))
    methods = {method: read_json(report_path(f"decompose/{method}")) for method in params.methods}
    histories = {stage: read_json(history_path(stage)) for stage in ("baseline", "sparsify", "finetune")}
    chosen = {stage: chosen_epoch(stage, history) for stage, history in histories.items()}
    compared = compare(params, metrics, prune["validation_accuracy"], methods)
    write_text(FOLDER / "table.md", table(params, metrics, compared))
    draw(params, metrics, prune, methods, histories, chosen)
    dense, units = load_spec(model_path("baseline")), methods[params.decomp]["units"]
    shape = f"{dense.channels}, {dense.image_size}, {dense.image_size}"
    page = render(
        sorted(FOLDER.glob("*.png")),
        title=params.decomp + ("" if params.decomp == "none" else f", keep {asked(params):g}"),
        model=f"{dense.name} for images of {shape.replace(', ', '×')} and {dense.classes} classes",
        tiles=tiles(metrics),
        methods=compared,
        budget=budget_in_words(params),
        loss=loss_table(histories, chosen),
        moved=moved_table(prune, methods),
        method=params.decomp,
        blocks=blocks_table(sites_left(prune), units),
        dense=dense_table(units),
        units=units_table(units),
        checkpoint=model_path("finetune"),
        shape=shape,
    )
    write_text(FOLDER / "report.html", page)


def draw(
    params: Params,
    metrics: Mapping[str, Any],
    prune: Mapping[str, Any],
    methods: Mapping[str, Any],
    histories: Mapping[str, History],
    chosen: Mapping[str, int],
) -> None:
    """Write the pictures of what the stages reported, `chosen` the epoch whose state each training gave."""
    images = metrics["validation_images"]
    plot_curves(histories, chosen, images, FOLDER / "curves.png")
    points = {method: point(method, report["validation_accuracy"]) for method, report in methods.items()}
    steps = {step: prune["validation_accuracy"][step] for step in ("dense", "pruned")}
    finetuned = (params.decomp, metrics["validation_accuracy"])
    plot_methods(points, steps, finetuned, images, FOLDER / "methods.png")
    units = {method: report["units"] for method, report in methods.items()}
    plot_spectra(units, FOLDER / "spectra.png")
    plot_errors(units, FOLDER / "errors.png")
    plot_ranks(units, FOLDER / "ranks.png")
    plot_kept(sites_left(prune), FOLDER / "pruning.png")
    plot_scores(prune["sites"], FOLDER / "scores.png")
    answers, model = read_json(report_path("evaluate")), f"{params.decomp}, fine-tuned"
    confused = {"dense": answers["confusion"]["dense"], model: answers["confusion"]["finetuned"]}
    plot_confusion(confused, images, FOLDER / "confusion.png")
    images_test = load_dataset(DATASET).test.images.numpy()
    plot_differences(images_test, answers["differing"], model, FOLDER / "differences.png")


def tiles(metrics: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return the figures that matter most: their name, before and after, and what they are of."""
    costs = {
        name: (metrics[f"{key}_dense"], metrics[key])
        for name, key in (("parameters", "parameters"), ("MACs", "macs"))
    }
    accuracy = f"{percent(metrics['test_accuracy_dense'])} → {percent(metrics['test_accuracy'])} %"
    return [
        ("test accuracy", accuracy, f"dense → fine-tuned, {metrics['test_images']:,} images"),
        *(
            (name, f"{dense:,} → {small:,}", f"{small / dense:.0%} of the dense model".replace("%", " %"))
            for name, (dense, small) in costs.items()
        ),
    ]


def loss_table(histories: Mapping[str, History], chosen: Mapping[str, int]) -> Table:
    """Return the validation loss of the models whose loss a training stage has measured."""
    baseline, sparsify, finetune = (histories[stage] for stage in ("baseline", "sparsify", "finetune"))
    steps = {
        "dense": baseline[chosen["baseline"]],
        "scored": sparsify[chosen["sparsify"]],
        "factorised": finetune[0],
        "fine-tuned": finetune[chosen["finetune"]],
    }
    return Table(("model", *steps), [("loss", *(f"{each['validation_loss']:.4f}" for each in steps.values()))])


def moved_table(prune: Mapping[str, Any], methods: Mapping[str, Any]) -> Table:
    """Return what pruning and each method were predicted to move the predictions, and what was measured."""
    predicted = (predicted_loss(part) for part in (narrowed(prune), *(each["units"] for each in methods.values())))
    measured = (report["divergence"] for report in (prune, *methods.values()))
    rows = [("predicted", *map(nats, predicted)), ("measured", *map(nats, measured))]
    return Table(("nats", "pruning", *methods), rows)


def sites_left(prune: Mapping[str, Any]) -> dict[str, Any]:
    """Return site -> `dims` before pruning and `kept` after it: by scores, and then by what is lost."""
    sites = {site: {"dims": entry["dims"], "kept": entry["kept"]} for site, entry in prune["sites"].items()}
    for entry in narrowed(prune):
        before = sites.get(entry["site"], entry)["dims"]
        sites[entry["site"]] = {"dims": before, "kept": entry["kept"]}
    return sites


def narrowed(prune: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Return what became of each site by the budget that pruning shares with factors, if there is one."""
    return prune["budget"]["sites"] if prune["budget"] else []


def asked(params: Params) -> float:
    """Return the fraction of the costs that is to be kept, by factors or by pruning and factors together."""
    return params.decompose.keep if params.compress.keep is None else params.compress.keep


def point(method: str, accuracy: float) -> dict[str, float]:
    """Return what `plot_methods` shows of a method: the costs of its model beside its accuracy."""
    spec = load_spec(model_path(f"decompose/{method}"))
    return {"accuracy": accuracy, "parameters": parameters(spec), "macs": macs(spec)}


def chosen_epoch(stage: str, history: History) -> int:
    """Return the epoch whose state a training stage gave: sparsify's last, of the others the last of the best."""
    if stage == "sparsify":
        return len(history) - 1
    return max(range(len(history)), key=lambda epoch: (history[epoch]["validation_accuracy"], epoch))


def compare(
    params: Params, metrics: Mapping[str, Any], before: Mapping[str, float], methods: Mapping[str, Any]
) -> Table:
    """Return the table of methods, a row each.

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
                "-" if method == "none" else f"{asked(params):g}",
                f"{kept(report, budget):.3f}",
                count(parameters(spec), parameters(dense)),
                count(macs(spec), macs(dense)),
                percent(before["dense"]),
                percent(before["pruned"]),
                percent(report["validation_accuracy"]),
                percent(metrics["validation_accuracy"] if method == params.decomp else None),
            )
        )
    return Table(HEADER, rows, marked=params.decomp)


def table(params: Params, metrics: Mapping[str, Any], compared: Table) -> str:
    """Return table.md: the table of methods, and the test accuracy of the method that was fine-tuned."""
    test = {step: percent(metrics[f"test_accuracy_{step}"]) for step in ("dense", "pruned", "factorised")}
    return (
        f"Validation accuracy (%, {metrics['validation_images']:,} images) after each step; fine-tuned is the "
        f"method that `decomp` names.\n{budget_in_words(params)}\n\n"
        + markdown_table(compared.header, compared.rows)
        + f"\nTest accuracy with {params.decomp} ({metrics['test_images']:,} images): dense {test['dense']} %, "
        f"pruned {test['pruned']} %, factorised {test['factorised']} %, "
        f"fine-tuned {percent(metrics['test_accuracy'])} %.\n"
    )


def budget_in_words(params: Params) -> str:
    """Return what the columns keep and kept mean."""
    budget = params.decompose.budget
    costs = "model's latency" if budget == "latency" else f"blocks' {'MACs' if budget == 'macs' else budget}"
    if params.compress.keep is None:
        return f"keep and kept: of the pruned {costs}, the fraction asked for and reached."
    return (
        f"keep: of the dense {costs}, the fraction asked for, of pruning and factors together; kept: of what "
        "pruning left of them, the fraction that factors reached."
    )


def kept(report: Mapping[str, Any], budget: str) -> float:
    """Return the fraction left of the units' cost, in `parameters` or `macs`, or of the model's `latency`."""
    if budget == "latency":
        return float(report["milliseconds"]["predicted"] / report["milliseconds"]["before"])
    left, whole = (sum(float(unit[key]) for unit in report["units"]) for key in (budget, f"{budget}_dense"))
    return left / whole


if __name__ == "__main__":
    run_stage(main)
