"""finetune: train the factorised model that `decomp` names, without L1, the dense model its teacher."""

from stages.paths import PARAMS
from stages.shared import load_data, load_model, run_stage, set_up
from stages.training import run_training
from vtp.params import Params, load_params
from vtp.training.loop import Recipe


def main() -> None:
    """Read the factorised model and the dense one; write the fine-tuned model and its history."""
    params = load_params(PARAMS)
    device = set_up(params)
    dataset = load_data(device)
    model = load_model(f"decompose/{params.decomp}", dataset, device)
    teacher = load_model("baseline", dataset, device) if params.finetune.distillation > 0 else None
    run_training(model, dataset, recipe_of(params), teacher)


def recipe_of(params: Params) -> Recipe:
    """Return what `params` say of fine-tuning."""
    return Recipe(
        "finetune",
        params.seed,
        params.finetune.epochs,
        params.finetune.learning_rate,
        params.training,
        distillation=params.finetune.distillation,
        temperature=params.finetune.temperature,
    )


if __name__ == "__main__":
    run_stage(main)
