"""A model's spec: plain data from which its module can be built, and which JSON carries unchanged.

A spec is a frozen dataclass of numbers, strings, tuples and further specs; whole numbers are at least 1.
`to_plain` makes it JSON-ready and `from_plain` reads it back: `from_plain(kind, to_plain(spec)) == spec`.
"""

from dataclasses import dataclass, fields, is_dataclass
from typing import Any, get_args, get_origin, get_type_hints

from vtp.errors import UserError


@dataclass(frozen=True)
class Factor:
    """A layer replaced by a pair of factors: left (out × rank) times right (rank × in), plus a bias or none.

    The weight of a convolution counts as the matrix (out × in·k·k).
    """

    rank: int
    bias: bool


@dataclass(frozen=True)
class ModelSpec:
    """What every model has.

    Attributes:
        name: the family, `vit` or `resnet18`.
        image_size: height and width of the input, pixels.
        channels: channels of the input.
        classes: number of logits.
        scored: kinds of site that carry importance scores ("attention.inner", …); empty in an exported model.
        factors: layer name -> its factorisation; a layer that is not named is dense.
    """

    name: str
    image_size: int
    channels: int
    classes: int
    scored: tuple[str, ...]
    factors: dict[str, Factor]


def to_plain(value: Any) -> Any:
    """Return `value`, a spec or a part of one, as dicts, lists, numbers and strings."""
    if is_dataclass(value):
        return {item.name: to_plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, dict):
        return {key: to_plain(value[key]) for key in sorted(value)}
    if isinstance(value, tuple):
        return [to_plain(item) for item in value]
    return value


def from_plain(kind: Any, plain: Any, key: str = "spec") -> Any:
    """Return the `kind` (a spec class or the type of one of its fields) that `plain` describes.

    Raises UserError naming the first key at which they disagree.
    """
    if is_dataclass(kind):
        names = [item.name for item in fields(kind)]
        if not isinstance(plain, dict) or set(plain) != set(names):
            found = ", ".join(sorted(plain)) if isinstance(plain, dict) else repr(plain)
            raise UserError(f"{key} must have the keys {', '.join(names)}, but has {found}")
        types = get_type_hints(kind)
        return kind(**{name: from_plain(types[name], plain[name], f"{key}.{name}") for name in names})  # type: ignore[operator]
    if get_origin(kind) is tuple and isinstance(plain, list):
        return tuple(from_plain(get_args(kind)[0], item, f"{key}[{i}]") for i, item in enumerate(plain))
    if get_origin(kind) is dict and isinstance(plain, dict):
        return {name: from_plain(get_args(kind)[1], item, f"{key}.{name}") for name, item in plain.items()}
    if kind is int and type(plain) is int and plain < 1:
        raise UserError(f"{key} is {plain}, but must be at least 1")
    if type(plain) in (get_args(kind) or (kind,)):
        return plain
    raise UserError(f"{key} is {plain!r}, but must be of type {getattr(kind, '__name__', kind)}")
