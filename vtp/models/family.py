"""What a family of models is made of; a new one is a folder and a line in `vtp.models.FAMILIES`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from vtp.models.base import Model
from vtp.models.spec import ModelSpec

State = dict[str, Tensor]
Masks = Mapping[str, Tensor]


@dataclass(frozen=True)
class Family:
    """A family of models.

    Attributes:
        params: the class of the section `model` of params.yaml; its `sites` are the kinds of site that the
            family has.
        dense: the spec of the untrained model of such a section (`params`, `image_size`, `channels`, `classes`).
        spec: the class of its specs.
        module: the class of its modules, made from a spec.
        slim: the surgery: takes a spec, its state, which it changes, and masks; returns the spec of what is left.
    """

    params: type[Any]
    dense: Callable[..., ModelSpec]
    spec: type[ModelSpec]
    module: type[Model]
    slim: Callable[[Any, State, Masks], ModelSpec]
