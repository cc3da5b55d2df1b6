"""params.yaml: what is accepted, and that every mistake is one sentence that names key, found and allowed."""

import copy
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.conftest import ROOT
from tests.params import RESNET, VIT, complaint, parse
from vtp.checked import leaves, words
from vtp.models import STARTS
from vtp.params import METHOD_NAMES, flatten, load_params

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))

CONTENTS = {"vit": VIT, "resnet18": RESNET}


class Key(NamedTuple):
    """One key of params.yaml, in a file for a model of `family`."""

    family: str
    name: str
    type: Any
    allowed: str


def keys_of(content: Any, family: str) -> list[Key]:
    return [Key(family, name, info.annotation, words(info)) for name, info, _ in leaves(parse(content))]


KEYS = keys_of(VIT, "vit")
KEYS += [key for key in keys_of(RESNET, "resnet18") if key.name.startswith("model.")]
EVERY_KEY = pytest.mark.parametrize("key", KEYS, ids=lambda key: f"{key.family}-{key.name}")
NUMERIC = [key for key in KEYS if key.type in (int, float, float | None)]
FLOATS = [key for key in NUMERIC if key.type is not int]
EVERY_FLOAT = pytest.mark.parametrize("key", FLOATS, ids=lambda key: key.name)
EVERY_NUMBER = pytest.mark.parametrize("key", NUMERIC, ids=lambda key: f"{key.family}-{key.name}")


def changed(key: Key, value: Any) -> dict[str, Any]:
    """The valid content of the key's family with another value under the key."""
    content = copy.deepcopy(CONTENTS[key.family])
    *section, last = key.name.split(".")
    (content[section[0]] if section else content)[last] = value
    if key.name == "training.crop_padding":  # must be below it
        content["data"]["image_size"] = 128
    return content


def allowed(key: Key, value: Any) -> str:
    """What the refusal of `value` says is allowed; that it names key and value is checked here."""
    message, start = complaint(changed(key, value)), f"params.yaml: {key.name} is {value!r}, but must be "
    assert message.startswith(start)
    assert len(message) > len(start)
    return message.removeprefix(start)


def bounds(key: Key) -> tuple[list[float], list[float]]:
    """(accepted, refused) values at the edges of the range that the key states in words."""
    numbers = [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?", key.allowed)]
    low, high = [*numbers, math.inf][:2]

    def beside(edge: float, towards: float) -> float:
        return edge + math.copysign(1, towards) if key.type is int else math.nextafter(edge, towards)

    if " above " in key.allowed:
        accepted, refused = [beside(low, math.inf)], [low, beside(low, -math.inf)]
    else:
        accepted, refused = [low], [beside(low, -math.inf)]
    if high < math.inf:
        accepted, refused = [*accepted, high], [*refused, beside(high, math.inf)]
    number = int if key.type is int else float
    return [number(x) for x in accepted], [number(x) for x in refused]


def test_the_active_parameters_are_those_of_digits() -> None:
    assert (ROOT / "params.yaml").read_bytes() == (ROOT / "configs" / "digits.yaml").read_bytes()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_is_valid_and_opens_with_its_description(path: Path) -> None:
    params, text = load_params(path), path.read_text(encoding="utf-8")
    assert params.decomp in params.methods
    header = "".join(line for line in text.splitlines(keepends=True)[:20] if line.startswith("#"))
    assert f"cp configs/{path.name} params.yaml" in header


@EVERY_NUMBER
def test_a_number_may_be_anything_in_its_range_and_nothing_outside(key: Key) -> None:
    accepted, refused = bounds(key)
    for value in accepted:
        assert flatten(parse(changed(key, value)))[key.name] == value
    for value in refused:
        stated = allowed(key, value)
        for number in re.findall(r"\d[\d.]*", key.allowed):
            assert number in stated


@EVERY_FLOAT
def test_no_number_may_be_nan_and_a_whole_one_is_read_as_a_number(key: Key) -> None:
    allowed(key, math.nan)
    *_, largest = bounds(key)[0]
    if largest >= 1:
        read = flatten(parse(changed(key, 1)))[key.name]
        assert read == 1.0
        assert type(read) is float


@EVERY_FLOAT
def test_a_number_of_absurd_size_is_no_crash(key: Key) -> None:
    assert key.name in complaint(changed(key, 10**400))


@pytest.mark.parametrize(
    "key", [key for key in KEYS if key.name != "model.name"], ids=lambda key: f"{key.family}-{key.name}"
)
def test_a_value_of_the_wrong_type_is_refused(key: Key) -> None:
    of_types = {"text": str, None: type(None), True: bool, 3.5: float, 7: int}
    accepted = {str | None: (str, type(None)), float: (float, int), float | None: (float, int, type(None))}.get(
        key.type, (key.type,)
    )
    wrong = [value for value, kind in of_types.items() if kind not in accepted]
    for value in (*wrong, [1, "text"], {"a": 1}):
        if key.name != "prune.rates" or not isinstance(value, dict):
            assert allowed(key, value) == key.allowed


@pytest.mark.parametrize("value", ["text", None, 7, ["vit"], {"a": 1}])
def test_the_name_of_the_model_is_one_of_the_families(value: Any) -> None:
    message = complaint(VIT | {"model": VIT["model"] | {"name": value}})
    assert message == f"params.yaml: model.name is {value!r}, but must be one of {', '.join(STARTS)}"


@pytest.mark.parametrize(
    "key",
    [key for key in KEYS if key.allowed.startswith("one of") and key.name not in ("decomp", "model.name")],
    ids=lambda key: f"{key.family}-{key.name}",
)
def test_a_choice_is_one_of_its_names_and_no_other(key: Key) -> None:
    names = key.allowed.removeprefix("one of ").split(", ")
    for name in names:
        content = changed(key, name)
        content["calibrate"]["batch"] = 1
        assert flatten(parse(content))[key.name] == name
    for value in ("", "nonsense", names[0] + " ", names[0].upper()):
        assert all(name in allowed(key, value) for name in names)


def test_a_checksum_has_64_hexadecimal_digits() -> None:
    key = next(key for key in KEYS if key.name == "data.sha256")
    assert parse(changed(key, "a0" * 32)).data.sha256 == "a0" * 32
    for value in ("a0" * 31, "a0" * 33, "g0" * 32, "a0" * 32 + "\n"):
        assert allowed(key, value) == "64 hexadecimal digits"


@pytest.mark.parametrize("value", [[], ["svd", "svd"], ["svd", "nonsense"], ["svd", ""]])
def test_methods_are_known_names_without_repeats(value: list[str]) -> None:
    key = next(key for key in KEYS if key.name == "methods")
    stated = allowed(key, value)
    assert all(name in stated for name in METHOD_NAMES)


def test_decomp_is_known_and_among_the_methods() -> None:
    message = complaint(VIT | {"decomp": "nonsense"})
    assert "decomp is 'nonsense'" in message
    assert all(name in message for name in METHOD_NAMES)
    content = VIT | {"decomp": "lu", "methods": ["svd", "qr"]}
    assert complaint(content) == "params.yaml: decomp is 'lu', but must be one of methods: svd, qr"


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_every_method_can_be_followed(name: str) -> None:
    params = parse(VIT | {"decomp": name, "methods": [name]})
    assert (params.decomp, params.methods) == (name, (name,))


@EVERY_KEY
def test_no_key_may_be_missing(key: Key) -> None:
    content = copy.deepcopy(CONTENTS[key.family])
    *section, last = key.name.split(".")
    del (content[section[0]] if section else content)[last]
    assert complaint(content) == f"params.yaml: key {key.name} is missing"


@pytest.mark.parametrize("section", [name for name, value in VIT.items() if isinstance(value, dict)])
def test_a_section_is_there_and_a_mapping_of_known_keys(section: str) -> None:
    assert complaint({name: VIT[name] for name in VIT if name != section}).endswith(f"key {section} is missing")
    for value in (None, 3, "text", [1], []):
        message = complaint(VIT | {section: value})
        assert f"section '{section}' is {value!r}, but must be a mapping of keys to values" in message
    message = complaint(VIT | {section: VIT[section] | {"sped": 1}})
    assert message == f"params.yaml: unknown key {section}.sped; allowed here are {', '.join(VIT[section])}"


def test_an_unknown_key_at_the_top_is_named() -> None:
    for key, written in {"sped": "sped", 1: "1", None: "null"}.items():
        assert f"unknown key {written}; allowed here are seed" in complaint(VIT | {key: 1})
