"""baseline: train the dense model from its initialisation or pretrained weights, alone or with a teacher."""

import torch

from stages.paths import DATASET, PARAMS, repository_root
from stages.shared import load_data, load_fitting, run_stage, set_up
from stages.training import run_training
from vtp.checkpoint import load_class_names
from vtp.data.batches import normalisation
from vtp.data.dataset import Dataset
from vtp.errors import UserError
from vtp.files import users_file
from vtp.models import Facts, Model, start
from vtp.params import Params, load_params
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
        "baseline",
        params.seed,
        params.baseline.epochs,
        params.baseline.learning_rate,
        params.training,
        distillation=params.baseline.distillation,
        temperature=params.baseline.temperature,
    )
    run_training(model, dataset, recipe, load_teacher(params, dataset, device))


def load_teacher(params: Params, dataset: Dataset, device: torch.device) -> Model | None:
    """Return the model that the dense one learns from, if any.

    Raises UserError, one sentence, if it cannot be read, or is for other images or classes than the data have.
    """
    if not params.baseline.teacher or not params.baseline.distillation:
        return None
    path = users_file("baseline.teacher", params.baseline.teacher, repository_root())
    if not path.is_file():
        raise UserError(f"params.yaml: baseline.teacher is {params.baseline.teacher!r}, but {path} is no file")
    teacher = load_fitting(path, dataset, device, "name another model in baseline.teacher")
    for index, (found, wanted) in enumerate(zip(load_class_names(path), dataset.class_names, strict=True)):
        if found != wanted:
            raise UserError(f"{path}: its class {index} is {found!r}, but must be {wanted!r}, as in {DATASET}")
    return teacher


if __name__ == "__main__":
    run_stage(main)
