"""sparsify: train on with importance scores under L1, so that the dimensions that matter little show."""

from dataclasses import replace

from stages.paths import PARAMS, model_path
from stages.shared import load_data, load_model, run_stage, set_up
from stages.training import run_training
from vtp.errors import UserError
from vtp.params import load_params
from vtp.scores import with_scores
from vtp.training.l1 import L1
from vtp.training.loop import Recipe


def main() -> None:
    """Read the dense model; write the scored model after the last epoch, where the scores are sparsest."""
    params = load_params(PARAMS)
    device = set_up(params)
    dataset = load_data(device)
    model = with_scores(load_model("baseline", dataset, device), params.sparsify.sites)
    recipe = Recipe(
        "sparsify", params.seed, params.sparsify.epochs, params.sparsify.learning_rate, params.training
    )
    l1 = L1(params.sparsify.l1, params.sparsify.step == "proximal")
    if l1.proximal and not model.state_dict()["head.weight"].any():
        raise UserError(
            f"{model_path('baseline')}: the head is zero, as a new one is, so no gradient says which dimensions "
            "matter; set baseline.epochs to at least 1, or sparsify.step to subgradient"
        )
    run_training(model, dataset, replace(recipe, keep_best=False, l1=l1))


if __name__ == "__main__":
    run_stage(main)
