"""From the text of params.yaml to checked sections."""

import re
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_type_hints

import yaml

from vtp.errors import UserError
from vtp.params.rules import Rule
from vtp.params.sections import MODELS, ModelParams, Params, ResNetParams, ViTParams

NUMBER = Rule("a number", lambda value: True)


class _Loader(yaml.SafeLoader):
    """YAML 1.2, as DVC reads the same file; and a key that stands twice is an error.

    PyYAML alone is a YAML 1.1 reader: 1e-4 is text, yes is true, 010 is 8, 1:30 is 90.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}
        for name, line in ((str(key.value), key.start_mark.line + 1) for key, _ in node.value):
            if name in lines:
                raise yaml.YAMLError(f"key {name} stands twice, in lines {lines[name]} and {line}")
            lines[name] = line
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.rpartition(":")[2] not in ("bool", "int", "float")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for tag, pattern, first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    ("float", r"[-+]?([0-9]+\.?[0-9]*([eE][-+]?[0-9]+)?|\.[0-9]+([eE][-+][0-9]+)?)", "-+0123456789."),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+."),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"^(?:{pattern})$"), list(first))
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(node.value))


def load_params(path: Path) -> Params:
    """Read and check params.yaml.

    Raises UserError, one sentence, for a missing file, unknown or missing key, wrong type, a value out of
    range, or sections that contradict each other.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; copy one from configs/")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason})") from error
    return params_from_text(text, path)


def params_from_text(text: str, path: Path) -> Params:
    """Check the text of params.yaml; `path` is the file that errors name. Raises UserError as `load_params`."""
    try:
        content = yaml.load(text, Loader=_Loader)
    # The others: dates that do not exist, tags on content of another kind, endless nesting.
    except (yaml.YAMLError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    params: Params = _section(Params, content, "")
    _check_together(params)
    return params


def flatten(section: Any, prefix: str = "") -> dict[str, Any]:
    """Return dotted key -> value of a params dataclass: {"seed": 0, "data.name": "digits", …}."""
    flat: dict[str, Any] = {}
    for item in fields(section):
        value = getattr(section, item.name)
        if is_dataclass(value):
            flat |= flatten(value, f"{prefix}{item.name}.")
        else:
            flat[prefix + item.name] = value
    return flat


def _section(kind: Any, content: Any, prefix: str) -> Any:
    where = f"params.yaml: section {prefix[:-1]!r}" if prefix else "params.yaml"
    if not isinstance(content, dict):
        raise UserError(f"{where} is {content!r}, but must be a mapping of keys to values")
    names = [item.name for item in fields(kind)]
    for key in content:
        if key not in names:
            found = " ".join(f"{prefix}{key}".split())
            raise UserError(f"params.yaml: unknown key {found}; allowed here are {', '.join(names)}")
    for name in names:
        if name not in content:
            raise UserError(f"params.yaml: key {prefix}{name} is missing")
    types = get_type_hints(kind)
    values = {}
    for item in fields(kind):
        expected, value, key = types[item.name], content[item.name], prefix + item.name
        if expected == ModelParams:
            expected = _model_section(value)
        if is_dataclass(expected):
            values[item.name] = _section(expected, value, key + ".")
        else:
            values[item.name] = _value(expected, value, key, item.metadata["rule"])
    return kind(**values)


def _model_section(content: Any) -> type[ViTParams] | type[ResNetParams]:
    """Return the class that reads a section `model` of this content: its key `name` says which."""
    if not isinstance(content, dict):
        return ViTParams  # which says what is wrong
    if "name" not in content:
        raise UserError("params.yaml: key model.name is missing")
    if content["name"] not in list(MODELS):
        raise UserError(f"params.yaml: model.name is {content['name']!r}, but must be one of {', '.join(MODELS)}")
    return MODELS[content["name"]]


def _value(expected: Any, value: Any, key: str, rule: Rule) -> Any:
    found = value
    if expected == tuple[str, ...] and isinstance(value, list) and all(isinstance(x, str) for x in value):
        value = tuple(value)
    elif expected == dict[str, float] and isinstance(value, dict):
        value = {name: _value(float, number, f"{key}.{name}", NUMBER) for name, number in value.items()}
    elif expected is float and type(value) is int:
        found = value = float(str(value))  # float(value) raises OverflowError for a number of 400 digits
    elif type(value) not in (get_args(expected) if isinstance(expected, UnionType) else (expected,)):
        kind = {int: "a whole number", float: NUMBER.allowed, bool: "true or false"}.get(expected, rule.allowed)
        raise UserError(f"params.yaml: {key} is {value!r}, but must be {kind}")
    if not rule.accepts(value):
        raise UserError(f"params.yaml: {key} is {found!r}, but must be {rule.allowed}")
    return value


def _check_together(params: Params) -> None:
    if params.decomp not in params.methods:
        raise UserError(
            f"params.yaml: decomp is {params.decomp!r}, but must be one of methods: {', '.join(params.methods)}"
        )
    model, size = params.model, params.data.image_size
    if isinstance(model, ViTParams) and size % model.patch_size:
        raise UserError(
            f"params.yaml: model.patch_size is {model.patch_size}, but must divide data.image_size, "
            f"which is {size}"
        )
    if isinstance(model, ResNetParams) and params.training.batch_size == 1 and size <= 8:
        raise UserError(
            "params.yaml: training.batch_size is 1, but must be at least 2 for resnet18 with data.image_size "
            f"{size}: its last norms would see a single value"
        )
    if not set(params.sparsify.sites) <= set(model.sites):
        raise UserError(
            f"params.yaml: sparsify.sites is {list(params.sparsify.sites)}, but model {model.name} has only "
            f"{', '.join(model.sites)}"
        )
    if not set(params.prune.rates) <= set(params.sparsify.sites):
        raise UserError(
            f"params.yaml: prune.rates is {params.prune.rates}, but only the sparsify.sites have scores: "
            f"{', '.join(params.sparsify.sites)}"
        )
