"""Plain data that is checked: the sections of params.yaml and the specs of models.

Both are frozen pydantic dataclasses, whose fields state type, range and words once. What does not fit is one
sentence that names the key, what was found and what is allowed.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le
from pydantic import AfterValidator, ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from vtp.errors import UserError

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Rule:
    """What a value must be, in words and as a test, for what pydantic has no constraint of its own."""

    allowed: str
    accepts: Callable[[Any], object]

    def __call__(self, value: Any) -> Any:
        if not self.accepts(value):
            raise ValueError(self.allowed)
        return value


def one_of(*names: str) -> AfterValidator:
    """One of `names`, which a registry has."""
    return AfterValidator(Rule(_choice(names), lambda value: value in names))


def some_of(*names: str) -> AfterValidator:
    """Some of `names`, at least one, none twice."""
    allowed = "a list, without repeats, of " + ", ".join(names)
    return AfterValidator(
        Rule(allowed, lambda value: bool(value) and len(set(value)) == len(value) and set(value) <= set(names))
    )


def checked(kind: Any, content: Any, file: str, root: str = "") -> Any:
    """Return `content`, plain data, as the checked dataclass `kind`.

    Raises UserError whose sentence begins with `file` and names the first key, below `root`, that does not fit:
    keys that are unknown first, then those that are missing or have a wrong value, in their order.
    """
    try:
        return TypeAdapter(kind).validate_json(json.dumps(content, default=str))
    except TypeError as error:  # YAML has keys of any kind
        raise UserError(f"{file}: its keys must be text") from error
    except ValidationError as error:
        first = min(error.errors(), key=lambda found: found["type"] != "unexpected_keyword_argument")
        raise UserError(f"{file}: {_sentence(kind, content, first, root)}") from error


def leaves(section: Any, prefix: str = "") -> Iterator[tuple[str, FieldInfo, Any]]:
    """Yield (dotted key, its field, value) of every value of a checked dataclass and of those inside it."""
    for item in fields(section):
        value, key = getattr(section, item.name), prefix + item.name
        if is_dataclass(value):
            yield from leaves(value, f"{key}.")
        else:
            yield key, section.__pydantic_fields__[item.name], value


def words(info: FieldInfo) -> str:
    """Say what a field may hold: `a whole number from 1 to 64`, `adamw or adam`."""
    rules = [item.func.allowed for item in info.metadata if isinstance(getattr(item, "func", None), Rule)]
    if rules:
        return str(rules[0])
    union = get_origin(info.annotation) in (Union, UnionType)
    kinds = [
        kind for kind in (get_args(info.annotation) if union else (info.annotation,)) if kind is not type(None)
    ]
    if get_origin(info.annotation) is Literal:
        return _choice(get_args(info.annotation))
    named = {int: "a whole number", float: "a number", bool: "true or false", str: "text", tuple: "a list"}
    return f"{named.get(get_origin(kinds[0]) or kinds[0], 'a mapping')} {range_of(info)}".rstrip()


def range_of(info: FieldInfo) -> str:
    """Return a number's range in words, such as `from 0 to 0.9` or `above 0`; empty where there is none."""
    bounds = {type(item): getattr(item, type(item).__name__.lower()) for item in info.metadata if _bounds(item)}
    if Ge in bounds and Le in bounds:
        return f"from {bounds[Ge]:.10g} to {bounds[Le]:.10g}"
    low = f"of at least {bounds[Ge]:g}" if Ge in bounds else f"above {bounds[Gt]:g}" if Gt in bounds else ""
    return low + (f" and at most {bounds[Le]:g}" if Le in bounds else "")


def _bounds(item: Any) -> bool:
    return isinstance(item, Ge | Gt | Le)


def _choice(names: tuple[str, ...]) -> str:
    return "one of " + ", ".join(names)


def _sentence(kind: Any, content: Any, error: Any, root: str) -> str:
    key, found, info = _locate(kind, content, error["loc"], root)
    match error["type"]:
        case "unexpected_keyword_argument":
            return f"unknown key {key}; allowed here are {', '.join(info)}"
        case "missing":
            return f"key {key} is missing"
        case "union_tag_not_found":
            return f"key {key}.{_unquoted(error, 'discriminator')} is missing"
        case "union_tag_invalid":
            name = _unquoted(error, "discriminator")
            return f"{key}.{name} is {found[name]!r}, but must be one of {_unquoted(error, 'expected_tags')}"
        case "dataclass_type" | "model_attributes_type" | "dict_type" if not isinstance(info, FieldInfo) or (
            get_origin(info.annotation) is not dict
        ):
            where = f"section {key!r}" if key else "the file"
            return f"{where} is {found!r}, but must be a mapping of keys to values"
    allowed = words(info) if isinstance(info, FieldInfo) else error["msg"]
    return f"{key} is {found!r}, but must be {allowed}"


def _unquoted(error: Any, name: str) -> str:
    return str(error["ctx"][name]).replace("'", "")


def _locate(kind: Any, content: Any, location: tuple[Any, ...], root: str) -> tuple[str, Any, Any]:
    """Return the dotted key at which pydantic's `location` ends, the value there, and its field.

    The walk ends at a value that is no dataclass; for a key that a dataclass lacks, its names stand for the field.
    """
    key, info = root, None
    for step in location:
        members = {_tag(member): member for member in get_args(kind) if is_dataclass(member)}
        if step in members and not isinstance(step, int):
            kind = members[step]  # pydantic names the member of a union that the content chose
            continue
        if is_dataclass(kind):
            names = {item.name: item for item in fields(kind)}
            key = f"{key}.{step}" if key else " ".join(str(step).split())
            if step not in names:
                return key, None, tuple(names)
            info = kind.__pydantic_fields__[step]  # type: ignore[union-attr]
            kind, content = info.annotation, _item(content, step)
        elif get_origin(kind) is tuple and is_dataclass(get_args(kind)[0]):
            kind, content, key = get_args(kind)[0], _item(content, step), f"{key}[{step}]"
        elif get_origin(kind) is dict:
            if location[-1] == "[key]":
                return f"a key of {key}", step, FieldInfo.from_annotation(get_args(kind)[0])
            info = FieldInfo.from_annotation(get_args(kind)[1])
            kind, content, key = info.annotation, _item(content, step), f"{key}.{step}"
        else:
            break
    return key, content, info


def _tag(member: Any) -> Any:
    """The value of the field `name` that chooses this member of a union; None where it has no such field."""
    info: Mapping[str, FieldInfo] = member.__pydantic_fields__
    return get_args(info["name"].annotation)[0] if "name" in info and get_args(info["name"].annotation) else None


def _item(content: Any, step: Any) -> Any:
    try:
        return content[step]
    except (KeyError, IndexError, TypeError):
        return None
