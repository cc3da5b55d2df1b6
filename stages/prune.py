"""prune: remove the dimensions of lowest score; the slim model computes what the masked model computed."""

import torch

from stages import PARAMS, model_path, report_path, run_stage
from stages.training import load_data, set_up
from vtp.checkpoint import load, save
from vtp.files import write_json
from vtp.measure import accuracy, macs, parameters
from vtp.params import load_params
from vtp.prune import THRESHOLDS, slim
from vtp.scores import scores


def main() -> None:
    """Read the scored model; write the slim one and what is left at each site."""
    params = load_params(PARAMS)
    device = set_up(params)
    validation = load_data(device).validation
    dense, scored = load(model_path("baseline")).to(device), load(model_path("sparsify")).to(device)
    masks = THRESHOLDS[params.prune.threshold](scores(scored), params.prune.rate)
    pruned = slim(scored, masks)
    save(pruned, model_path("prune"))
    cost = {"dense": parameters(dense.spec), "pruned": parameters(pruned.spec)}
    report = {
        "validation_accuracy": {
            "dense": accuracy(dense, validation),
            "sparse": accuracy(scored, validation),
            "pruned": accuracy(pruned, validation),
        },
        "parameters": cost,
        "macs": {"dense": macs(dense.spec), "pruned": macs(pruned.spec)},
        "sites": {site: {"dims": len(mask), "kept": int(mask.sum())} for site, mask in masks.items()},
    }
    write_json(report_path("prune"), report)
    kept = torch.cat(list(masks.values()))
    print(
        f"prune: {int(kept.sum())} of {len(kept)} scored dimensions kept, "
        f"{cost['pruned']:,} of {cost['dense']:,} parameters"
    )


if __name__ == "__main__":
    run_stage(main)
