"""A vision transformer that has learnt scikit-learn's digits, shared by the tests that need a trained model."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from tests.conftest import ROOT
from tests.training import Listener
from vtp.data.batches import normalisation
from vtp.data.dataset import Dataset
from vtp.data.sources import fetch
from vtp.models import Model, dense_spec, initialised
from vtp.params import load_params
from vtp.scores import with_scores
from vtp.training.l1 import L1
from vtp.training.loop import Recipe, train

PARAMS = load_params(ROOT / "configs" / "digits.yaml")


@cache
def digits() -> Dataset:
    return fetch(PARAMS.data, PARAMS.seed, ROOT)


def _trained(model: Model, recipe: Recipe) -> Model:
    with TemporaryDirectory() as folder:
        resume = Path(folder) / "state"
        return train(model, digits().train, digits().validation, recipe, resume=resume, watcher=Listener())[0]


@cache
def dense() -> Model:
    """The dense model of the default run after 12 epochs: about 96 % right."""
    spec = dense_spec(PARAMS.model, image_size=8, channels=1, classes=10)
    model = initialised(spec, 0, *normalisation(digits().train))
    return _trained(model, Recipe("baseline", 0, 12, PARAMS.baseline.learning_rate, PARAMS.training))


@cache
def scored() -> Model:
    """The dense model with scores that L1 has driven apart for four epochs."""
    recipe = Recipe("sparsify", 0, 4, PARAMS.sparsify.learning_rate, PARAMS.training)
    recipe = replace(recipe, keep_best=False, l1=L1(PARAMS.sparsify.l1, True))
    return _trained(with_scores(dense(), PARAMS.sparsify.sites), recipe)


@torch.no_grad()
def divergence(model: Model, other: Model, images: Tensor) -> float:
    """Mean KL divergence (nats) of the other model's predictions from those of the model."""
    expected, found = model(images).log_softmax(1), other(images).log_softmax(1)
    return float((expected.exp() * (expected - found)).sum(1).mean())
