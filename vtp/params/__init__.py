"""params.yaml as frozen dataclasses: one a section, every value checked before any work begins."""

from vtp.params.load import flatten, load_params, params_from_text
from vtp.params.sections import (
    METHOD_NAMES,
    CalibrateParams,
    DataParams,
    DecomposeParams,
    Params,
    PruneParams,
    TrainingParams,
)

__all__ = [
    "METHOD_NAMES",
    "CalibrateParams",
    "DataParams",
    "DecomposeParams",
    "Params",
    "PruneParams",
    "TrainingParams",
    "flatten",
    "load_params",
    "params_from_text",
]
