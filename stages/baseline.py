"""baseline: train the dense model from its initialisation, or on from pretrained weights."""

from stages.paths import DATASET, PARAMS, repository_root
from stages.shared import load_data, run_stage, set_up
from stages.training import run_training
from vtp.data.batches import normalisation
from vtp.errors import UserError
from vtp.models import Facts, start
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
    mean, std = normalisation(dataset.train)
    facts = Facts(
        image_size=params.data.image_size,
        channels=dataset.channels,
        classes=len(dataset.class_names),
        mean=mean,
        std=std,
        resize=params.data.resize,
        squash=params.data.squash,
        interpolation=params.data.interpolation,
    )
    model = start(params.model, facts, params.seed, repository_root()).to(device)
    recipe = Recipe(
        "baseline", params.seed, params.baseline.epochs, params.baseline.learning_rate, params.training
    )
    run_training(model, dataset, recipe)


if __name__ == "__main__":
    run_stage(main)
