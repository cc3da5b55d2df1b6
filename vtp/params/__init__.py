"""params.yaml as frozen dataclasses: one a section, every value checked before any work begins."""

from vtp.params.load import flatten, load_params, params_from_text
from vtp.params.rules import Rule
from vtp.params.sections import (
    METHOD_NAMES,
    BaselineParams,
    DataParams,
    DecomposeParams,
    FinetuneParams,
    ModelParams,
    Params,
    PruneParams,
    ResNetParams,
    SparsifyParams,
    TrainingParams,
    ViTParams,
)

__all__ = [
    "METHOD_NAMES",
    "BaselineParams",
    "DataParams",
    "DecomposeParams",
    "FinetuneParams",
    "ModelParams",
    "Params",
    "PruneParams",
    "ResNetParams",
    "Rule",
    "SparsifyParams",
    "TrainingParams",
    "ViTParams",
    "flatten",
    "load_params",
    "params_from_text",
]
