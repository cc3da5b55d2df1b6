"""What a family of models is made of, and how a run comes to its first model.

A new family is a folder and a line in `vtp.models.FAMILIES`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from vtp.models.base import Model
from vtp.models.spec import ModelSpec

State = dict[str, Tensor]
Masks = Mapping[str, Tensor]


@dataclass(frozen=True)
class Inner:
    """Dims inside a block that one layer makes and one layer reads, so that they can go from both.

    Attributes:
        site: its name among masks.
        maker: the layer whose outputs they are.
        reader: the layer that reads them.
        heads: the dims of each head, side by side; one number where there are no heads.
        read_as: `columns`: nothing but products of dims lies between, and they meet the reader's columns, so that
            any basis of them will do; `rows`: so it is, and they are multiplied with the reader's outputs, as
            queries with keys; `activations`: an activation lies between, so that dims cannot be mixed.
    """

    site: str
    maker: str
    reader: str
    heads: tuple[int, ...]
    read_as: Literal["columns", "rows", "activations"]


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
            Masks are of sites of scores, or of inner dims.
        inner: the inner dims of a spec.
    """

    params: type[Any]
    dense: Callable[..., ModelSpec]
    spec: type[ModelSpec]
    module: type[Model]
    slim: Callable[[Any, State, Masks], ModelSpec]
    inner: Callable[[Any], list[Inner]]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the first model of a run must know of the images.

    Attributes:
        image_size: height and width, pixels.
        channels: of every image.
        classes: number of them.
        mean, std: of the pixels of the training split, by channel, in units of 0 to 255.
        resize, squash, interpolation: how they were brought to their size, in the words of the section `data`.
    """

    image_size: int
    channels: int
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: int
    squash: bool
    interpolation: str


@dataclass(frozen=True)
class Start:
    """What a section `model` of params.yaml may ask for: an untrained model of some family, or a pretrained one.

    Attributes:
        params: the class of the section; its `sites` are the kinds of site that the model has.
        model: makes the model in evaluation mode, on the CPU, of a section, the facts, the seed, and the
            folder at which relative paths start. Raises UserError where the section cannot be had, or not for such
            images.
    """

    params: type[Any]
    model: Callable[[Any, Facts, int, Path], Model]
