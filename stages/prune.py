"""prune: remove the dimensions of lowest score, or those that lose least, and refit the layers that read them."""

from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from stages.paths import PARAMS, model_path, report_path, times_path
from stages.shared import load_data, load_model, run_stage, set_up
from vtp.budget import Budget, form_of
from vtp.calibration.watching import calibration_images
from vtp.checkpoint import save
from vtp.files import write_json
from vtp.measure import accuracy, divergence, logits
from vtp.params import load_params
from vtp.prune import Cut, Shared, choose_cut, corrected, shared, slim, weights
from vtp.scores import scores
from vtp.times import save_times

BINS = 40


def main() -> None:
    """Read the scored model; write the slim one and what is left at each site."""
    params = load_params(PARAMS)
    device = set_up(params)
    dataset = load_data(device)
    dense, scored = (load_model(stage, dataset, device) for stage in ("baseline", "sparsify"))
    images = calibration_images(dataset.train.images, params.prune.images, params.seed)
    by_scores, keep = params.prune, params.compress.keep
    if keep is not None:  # exact zeros go, and then what the budget asks for
        by_scores = replace(by_scores, rate=0.0, rates={})
    cut = choose_cut(scores(scored), by_scores, scored.head_dims())
    pruned, budget = slim(scored, cut.keep), None
    if keep is not None:
        unit, form = params.decompose.budget, params.decompose.form
        whole = Budget(keep, unit, form_of(form, unit), params.calibrate.batch)
        budget = shared(pruned, scored, dense, images, whole, params.seed)
        pruned = budget.model
    elif params.prune.correction == "least_squares":
        pruned = corrected(pruned, scored, images)
    save(pruned, model_path("prune"), dataset.class_names, dataset.resizing)
    save_times(budget.times if budget else None, times_path("prune"))
    steps = {"dense": dense, "sparse": scored, "pruned": pruned}
    measured = tqdm(steps.items(), "evaluating", disable=None)
    accuracies = {step: accuracy(model, dataset.validation) for step, model in measured}
    kept, learned = torch.cat(list(cut.keep.values())), torch.cat(list(scores(scored).values())).cpu()
    zeros = int((learned[~kept] == 0).sum())
    report = {
        "validation_accuracy": accuracies,
        "zeros_removed": zeros,
        "sites": site_reports(scores(scored), cut),
        "budget": budget_report(budget) if budget else None,
        "divergence": divergence(*(logits(model, images) for model in (scored, pruned)))[0],
    }
    write_json(report_path("prune"), report)
    print(
        f"prune: {int(kept.sum())} of {len(kept)} scored dimensions kept, {zeros} of those removed exactly zero, "
        f"{weights(pruned) / weights(dense):.0%} of the layers' weights left, "
        f"validation accuracy {accuracies['pruned']:.4f} (dense {accuracies['dense']:.4f})"
    )


def budget_report(budget: Shared) -> dict[str, Any]:
    """Return the share of the budget that dims took, what became of them, and what each share would lose."""
    return {
        "share": budget.share,
        "sites": [asdict(site) for site in budget.sites],
        "predicted_loss": {
            str(share): {"dims": lost[0], "ranks": lost[1]} for share, lost in budget.predicted.items()
        },
    }


def site_reports(site_scores: dict[str, Tensor], cut: Cut) -> dict[str, dict[str, Any]]:
    """Return for each site its dims, how many are kept, the thresholds, and histograms of |score| of both.

    All sites share `BINS` bins from zero to the largest score of all.
    """
    magnitudes = {site: score.detach().abs().float().cpu() for site, score in site_scores.items()}
    largest = max(float(magnitude.max()) for magnitude in magnitudes.values())
    return {
        site: {
            "dims": len(keep),
            "kept": int(keep.sum()),
            "thresholds": cut.thresholds[site],
            "largest": largest,
            "histogram": histogram(magnitudes[site], largest),
            "histogram_kept": histogram(magnitudes[site][keep], largest),
        }
        for site, keep in cut.keep.items()
    }


def histogram(magnitudes: Tensor, largest: float) -> list[int]:
    """Return how many of the magnitudes fall into each of `BINS` equal bins from 0 to `largest`."""
    counts: list[int] = torch.histc(magnitudes, BINS, 0, largest).int().tolist()
    return counts


if __name__ == "__main__":
    run_stage(main)
