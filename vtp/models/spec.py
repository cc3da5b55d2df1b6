"""A model's spec: plain data from which its module can be built, and which JSON carries unchanged.

A spec is a frozen, checked dataclass of numbers, strings, tuples and further specs. A field that comes later has a
default, so that older checkpoints load for ever; `version` goes up only where an older reader would go wrong.
"""

from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass
from pydantic.fields import FieldInfo

from vtp.checked import STRICT

VERSION = 1
Form = Literal["pair", "pivot"]
Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, config=STRICT)
class Factor:
    """A layer replaced by a pair of factors: left (out × rank) times right (rank × in), plus a bias or none.

    The weight of a convolution counts as the matrix (out × in·k·k).

    Attributes:
        rank: of the product; below that of the whole in the form `pivot`.
        bias: whether one is added.
        form: `pair`: both factors are stored; `pivot`: right is some of the product's own rows, and of left
            there is stored what the other rows are made of.
    """

    rank: Count
    bias: bool
    form: Form = "pair"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ModelSpec:
    """What every model has.

    Attributes:
        name: the family, `vit` or `resnet18`.
        image_size: height and width of the input, pixels.
        channels: channels of the input.
        classes: number of logits.
        scored: kinds of site that carry importance scores ("attention.inner", …); empty in an exported model.
        factors: layer name -> its factorisation; a layer that is not named is dense.
        version: of the form of specs; what was written before there were versions has that of the first.
    """

    name: str
    image_size: Count
    channels: Count
    classes: Count
    scored: tuple[str, ...] = ()
    factors: dict[str, Factor] = Field(default_factory=dict)
    version: Annotated[int, Field(ge=1, le=VERSION)] = VERSION

    @property
    def largest_activation(self) -> int:
        """Number of entries of the largest tensor that one image makes on its way through the model."""
        raise NotImplementedError


def to_plain(value: Any) -> Any:
    """Return a spec as JSON-ready data without the fields that have their default, but with its version.

    So a field that comes later changes nothing in the files of models that do not use it.
    """
    if isinstance(value, Mapping):
        return {key: to_plain(entry) for key, entry in value.items()}
    if isinstance(value, tuple):
        return [to_plain(entry) for entry in value]
    if not is_dataclass(value):
        return value
    kind: Any = type(value)
    infos: dict[str, FieldInfo] = kind.__pydantic_fields__
    found = {name: getattr(value, name) for name in infos}
    return {
        name: to_plain(entry)
        for name, entry in found.items()
        if name == "version" or entry != infos[name].get_default(call_default_factory=True)
    }
