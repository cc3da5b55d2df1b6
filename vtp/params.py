"""params.yaml as frozen dataclasses: one a section, every value checked before any work begins."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, ClassVar, get_args, get_type_hints

import yaml

from vtp.decompositions import METHODS
from vtp.errors import UserError

METHOD_NAMES = ("none", *METHODS)


@dataclass(frozen=True)
class Rule:
    """What a value may be: the words for an error message and the test."""

    allowed: str
    accepts: Callable[[Any], bool]


def _key(rule: Rule) -> Any:
    return field(metadata={"rule": rule})


def _at_least(low: float) -> Any:
    return _key(Rule(f"a number of at least {low}", lambda value: value >= low))


def _between(low: float, high: float) -> Any:
    return _key(Rule(f"a number from {low} to {high}", lambda value: low <= value <= high))


def _above(low: float, high: float = float("inf")) -> Any:
    allowed = f"a number above {low}" + ("" if high == float("inf") else f" and at most {high}")
    return _key(Rule(allowed, lambda value: low < value <= high))


def _one_of(*names: str) -> Any:
    return _key(Rule("one of " + ", ".join(names), lambda value: value in names))


def _some_of(*names: str) -> Any:
    allowed = "a list, without repeats, of " + ", ".join(names)
    return _key(Rule(allowed, lambda value: value and len(set(value)) == len(value) and set(value) <= set(names)))


def _anything() -> Any:
    return _key(Rule("text", lambda value: True))


@dataclass(frozen=True)
class DataParams:
    """Section `data`: which images."""

    name: str = _one_of("digits", "cifar10", "cifar100", "imagefolder")
    path: str | None = _anything()
    sha256: str | None = _key(
        Rule("64 hexadecimal digits", lambda value: value is None or bool(re.fullmatch("[0-9a-f]{64}", value)))
    )
    image_size: int = _between(4, 1024)
    validation_fraction: float = _between(0.01, 0.5)


@dataclass(frozen=True)
class ViTParams:
    """Section `model` of name `vit`: a vision transformer."""

    sites: ClassVar = ("attention.inner", "mlp.hidden", "attention.input", "mlp.input")

    name: str = _one_of("vit")
    patch_size: int = _at_least(1)
    dim: int = _at_least(1)
    depth: int = _at_least(1)
    heads: int = _at_least(1)
    head_dim: int = _at_least(1)
    mlp_dim: int = _at_least(1)
    dropout: float = _between(0.0, 0.9)


@dataclass(frozen=True)
class ResNetParams:
    """Section `model` of name `resnet18`: the form with a 3×3 stem and no max-pooling."""

    sites: ClassVar = ("block.inner",)

    name: str = _one_of("resnet18")
    width: int = _at_least(1)


ModelParams = ViTParams | ResNetParams
MODELS: dict[str, type[ViTParams] | type[ResNetParams]] = {"vit": ViTParams, "resnet18": ResNetParams}


@dataclass(frozen=True)
class TrainingParams:
    """Section `training`: what baseline, sparsify and finetune share."""

    batch_size: int = _at_least(1)
    optimizer: str = _one_of("adamw", "adam")
    weight_decay: float = _between(0.0, 10.0)
    warmup_fraction: float = _between(0.0, 0.9)
    gradient_clip: float = _above(0.0)
    label_smoothing: float = _between(0.0, 0.9)
    crop_padding: int = _between(0, 64)
    flip: bool = _key(Rule("true or false", lambda value: True))
    precision: str = _one_of("float32", "bfloat16")
    device: str = _one_of("auto", "cpu", "cuda")
    threads: int = _between(1, 1024)


@dataclass(frozen=True)
class BaselineParams:
    """Section `baseline`: training of the dense model."""

    epochs: int = _at_least(1)
    learning_rate: float = _above(0.0, 10.0)


@dataclass(frozen=True)
class SparsifyParams:
    """Section `sparsify`: learning of the importance scores."""

    epochs: int = _at_least(1)
    learning_rate: float = _above(0.0, 10.0)
    l1: float = _between(0.0, 1.0)
    step: str = _one_of("proximal", "subgradient")
    sites: tuple[str, ...] = _some_of(*ViTParams.sites, *ResNetParams.sites)


@dataclass(frozen=True)
class PruneParams:
    """Section `prune`: removal of scored dimensions."""

    rate: float = _between(0.0, 0.95)
    threshold: str = _one_of("global", "layer")


@dataclass(frozen=True)
class DecomposeParams:
    """Section `decompose`: low-rank factors in place of weights."""

    keep: float = _above(0.0, 1.0)
    budget: str = _one_of("parameters", "macs")
    allocation: str = _one_of("uniform", "global")
    metric: str = _one_of("weight", "activation")
    calibration_images: int = _at_least(1)


@dataclass(frozen=True)
class FinetuneParams:
    """Section `finetune`: training of the compressed model."""

    epochs: int = _at_least(1)
    learning_rate: float = _above(0.0, 10.0)
    distillation: float = _between(0.0, 1.0)
    temperature: float = _above(0.0, 100.0)


@dataclass(frozen=True, kw_only=True)
class Params:
    """The whole of params.yaml; the file itself comments every key with its unit and range."""

    seed: int = _between(0, 2**31 - 1)
    decomp: str = _one_of(*METHOD_NAMES)
    methods: tuple[str, ...] = _some_of(*METHOD_NAMES)
    data: DataParams
    model: ModelParams
    training: TrainingParams
    baseline: BaselineParams
    sparsify: SparsifyParams
    prune: PruneParams
    decompose: DecomposeParams
    finetune: FinetuneParams


class _Loader(yaml.SafeLoader):
    """YAML 1.2 numbers: PyYAML alone reads 1e-4 as text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$"),
    list("-+0123456789."),
)


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
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that does not exist, and the like
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
            raise UserError(f"params.yaml: unknown key {prefix}{key}; allowed here are {', '.join(names)}")
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
    if expected == tuple[str, ...] and isinstance(value, list) and all(isinstance(x, str) for x in value):
        value = tuple(value)
    elif expected is float and type(value) is int:
        value = float(str(value))  # float(value) raises OverflowError for a number of 400 digits
    elif type(value) not in (get_args(expected) or (expected,)):
        kind = {int: "a whole number", float: "a number", bool: "true or false"}.get(expected, rule.allowed)
        raise UserError(f"params.yaml: {key} is {value!r}, but must be {kind}")
    if not rule.accepts(value):
        raise UserError(f"params.yaml: {key} is {_shown(value)}, but must be {rule.allowed}")
    return value


def _shown(value: Any) -> str:
    return str(list(value)) if isinstance(value, tuple) else repr(value)


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
    if not set(params.sparsify.sites) <= set(model.sites):
        raise UserError(
            f"params.yaml: sparsify.sites is {list(params.sparsify.sites)}, but model {model.name} has only "
            f"{', '.join(model.sites)}"
        )
