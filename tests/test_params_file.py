"""params.yaml as a file: what is no mapping, no YAML or not there, and how values may be written."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.params import DIGITS_TEXT, PATH, VIT, parse
from vtp.errors import UserError
from vtp.params import flatten, load_params, params_from_text


def refusal_of_text(text: str, folder: Path) -> str:
    path = folder / "params.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load_params(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("text", ["", "# nothing\n", "text", "- a\n- b\n", "3\n", "null\n"])
def test_a_file_that_is_no_mapping_is_refused(text: str, tmp_path: Path) -> None:
    assert "must be a mapping of keys to values" in refusal_of_text(text, tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "seed: [1\n",
        "a: b: c\n",
        "\tseed: 1\n",
        "seed: 2024-13-41\n",
        "seed: \0\n",
        "a: *b\n",
        "!!map [1]\n",
        "!!int [1]\n",
        "[" * 3000,
    ],
)
def test_a_file_that_is_no_yaml_is_refused_by_name(text: str, tmp_path: Path) -> None:
    assert f"{tmp_path / 'params.yaml'}: not valid YAML" in refusal_of_text(text, tmp_path)


@pytest.mark.parametrize("written", ["yes", "no", "on", "off", "Y"])
def test_what_only_yaml_1_1_calls_a_truth_value_is_refused(written: str) -> None:
    text = DIGITS_TEXT.replace("  flip: false", f"  flip: {written}")
    with pytest.raises(UserError, match=f"training.flip is '{written}', but must be true or false"):
        params_from_text(text, PATH)


@pytest.mark.parametrize(("written", "seed"), [("010", 10), ("+7", 7), ("0", 0)])
def test_whole_numbers_are_decimal_whatever_they_begin_with(written: str, seed: int) -> None:
    text = re.sub(r"^seed: \d+", f"seed: {written}", DIGITS_TEXT, flags=re.MULTILINE)
    assert params_from_text(text, PATH).seed == seed


@pytest.mark.parametrize("written", ["1:30", "1.5", "zero"])
def test_other_ways_to_write_a_number_are_refused(written: str) -> None:
    text = re.sub(r"^seed: \d+", f"seed: {written}", DIGITS_TEXT, flags=re.MULTILINE)
    with pytest.raises(UserError, match=f"seed is '?{written}'?, but must be a whole number"):
        params_from_text(text, PATH)


def test_a_key_that_stands_twice_is_refused_by_name(tmp_path: Path) -> None:
    found = refusal_of_text(DIGITS_TEXT.replace("  flip: ", "  precision: float32\n  flip: "), tmp_path)
    assert found.startswith(f"{tmp_path / 'params.yaml'}: not valid YAML: ")
    assert 'duplicate key "precision"' in found


def test_keys_are_text(tmp_path: Path) -> None:
    assert refusal_of_text("[a]: 1\n", tmp_path).endswith("params.yaml: its keys must be text")


def test_a_missing_or_unreadable_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    with pytest.raises(UserError, match=f"^{re.escape(str(path))}: no such file"):
        load_params(path)
    path.write_bytes(b"seed: \xff\xfe")
    with pytest.raises(UserError, match=f"^{re.escape(str(path))}: not UTF-8 text"):
        load_params(path)


@settings(max_examples=200)
@given(st.text(alphabet="seda:{}[]&*!|>-#'\"%@` \n01.e", max_size=40))
def test_any_text_is_refused_and_never_a_crash(text: str) -> None:
    with pytest.raises(UserError):
        params_from_text(text, PATH)


@settings(max_examples=25)
@given(st.floats(1e-12, 10.0, exclude_min=True))
def test_numbers_may_be_written_with_an_exponent_and_no_point(rate: float) -> None:
    digits, exponent = f"{rate:.0e}".split("e")
    for written in (f"{digits}e{exponent}", f"{digits}E{int(exponent)}", f"{digits}.e{exponent}"):
        if float(written) <= 10:
            text = DIGITS_TEXT.replace("learning_rate: 0.002 ", f"learning_rate: {written} ")
            assert text != DIGITS_TEXT
            assert params_from_text(text, PATH).baseline.learning_rate == float(written)


@settings(max_examples=25)
@given(st.randoms(use_true_random=False))
def test_order_and_comments_mean_nothing(random: Any) -> None:
    def shuffled(content: Any) -> Any:
        if not isinstance(content, dict):
            return content
        return {key: shuffled(content[key]) for key in random.sample(list(content), len(content))}

    text = yaml.safe_dump(shuffled(VIT), sort_keys=False)
    assert params_from_text(text, PATH) == params_from_text(DIGITS_TEXT, PATH)


def test_flatten_gives_every_value_under_its_dotted_key() -> None:
    flat = flatten(parse(VIT))
    sections = {key: value for key, value in VIT.items() if isinstance(value, dict)}
    expected = {key: value for key, value in VIT.items() if key not in sections}
    for name, section in sections.items():
        expected |= {f"{name}.{key}": value for key, value in section.items()}
    assert {key: list(x) if isinstance(x, tuple) else x for key, x in flat.items()} == expected
    assert list(flat)[:3] == ["seed", "methods", "decomp"]
