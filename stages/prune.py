"""prune: remove the dimensions of lowest score, and refit the layers that read them."""

from typing import Any

import torch
from torch import Tensor

from stages.paths import PARAMS, model_path, report_path
from stages.shared import load_data, load_model, run_stage, set_up
from vtp.calibration.watching import calibration_images
from vtp.checkpoint import save
from vtp.files import write_json
from vtp.measure import accuracy
from vtp.params import load_params
from vtp.prune import Cut, choose_cut, corrected, slim
from vtp.scores import scores

BINS = 40


def main() -> None:
    """Read the scored model; write the slim one and what is left at each site."""
    params = load_params(PARAMS)
    device = set_up(params)
    dataset = load_data(device)
    dense, scored = (load_model(stage, dataset, device) for stage in ("baseline", "sparsify"))
    cut = choose_cut(scores(scored), params.prune, scored.head_dims())
    pruned = slim(scored, cut.keep)
    if params.prune.correction == "least_squares":
        images = calibration_images(dataset.train.images, params.prune.images, params.seed)
        pruned = corrected(pruned, scored, images)
    save(pruned, model_path("prune"), dataset.class_names)
    steps = {"dense": dense, "sparse": scored, "pruned": pruned}
    accuracies = {step: accuracy(model, dataset.validation) for step, model in steps.items()}
    kept, learned = torch.cat(list(cut.keep.values())), torch.cat(list(scores(scored).values())).cpu()
    zeros = int((learned[~kept] == 0).sum())
    report = {
        "validation_accuracy": accuracies,
        "zeros_removed": zeros,
        "sites": site_reports(scores(scored), cut),
    }
    write_json(report_path("prune"), report)
    print(
        f"prune: {int(kept.sum())} of {len(kept)} scored dimensions kept, {zeros} of those removed exactly zero, "
        f"validation accuracy {accuracies['pruned']:.4f} (dense {accuracies['dense']:.4f})"
    )


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
