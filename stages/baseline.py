"""baseline: train the dense model from its initialisation."""

from stages.paths import DATASET, PARAMS
from stages.shared import load_data, run_stage, set_up
from stages.training import run_training
from vtp.data.batches import normalisation
from vtp.errors import UserError
from vtp.models import dense_spec, initialised
from vtp.params import load_params
from vtp.training.loop import Recipe


def main() -> None:
    """Read params.yaml and the data set; write the dense model and its history."""
    params = load_params(PARAMS)
    device = set_up(params)
    dataset = load_data(device)
    if params.data.image_size != dataset.train.images.shape[-1]:
        raise UserError(
            f"params.yaml: data.image_size is {params.data.image_size}, but the images of {DATASET} have "
            f"{dataset.train.images.shape[-1]} pixels; run fetch again (dvc repro)"
        )
    spec = dense_spec(
        params.model,
        channels=dataset.channels,
        classes=len(dataset.class_names),
        image_size=params.data.image_size,
    )
    model = initialised(spec, params.seed, *normalisation(dataset.train)).to(device)
    recipe = Recipe(
        "baseline", params.seed, params.baseline.epochs, params.baseline.learning_rate, params.training
    )
    run_training(model, dataset, recipe)


if __name__ == "__main__":
    run_stage(main)
