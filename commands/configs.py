"""configs: write params.yaml and configs/*.yaml anew, each key with unit and range, in the form that DVC writes.

Run it after a parameter was added or given other words. Values stay, those of params.yaml too; a key that is new
gets the value that the command line names, in every file, or, where it is one of `model`, in those of models that
have it:

    python -m commands.configs training.flip=false
"""

import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml

from stages.paths import PARAMS
from stages.shared import run_stage
from vtp.checked import checked, range_of, words
from vtp.files import write_text
from vtp.models import STARTS
from vtp.params import Params
from vtp.yaml import read_yaml

COLUMN = 30  # where comments begin
WIDTH = 115


def main() -> None:
    """Rewrite every file; raise UserError, and write none, if a key or value does not fit."""
    given = {key: value for key, _, value in (argument.partition("=") for argument in sys.argv[1:])}
    rewritten = {}
    for path in (*sorted(Path("configs").glob("*.yaml")), PARAMS):
        text = path.read_text(encoding="utf-8")
        content = read_yaml(text, path)
        for key, value in given.items():
            section, _, name = key.rpartition(".")
            if section != "model" or content["model"]["name"] in _models_with(name):
                (content.setdefault(section, {}) if section else content).setdefault(name, read_yaml(value, path))
        rewritten[path] = header(text) + body(checked(Params, content, path.name))
    for path, text in rewritten.items():
        write_text(path, text)


def _models_with(key: str) -> set[str]:
    """Return the models that have the key; all, to be refused by each, where none has it."""
    return {name for name, start in STARTS.items() if key in {item.name for item in fields(start.params)}} or {
        *STARTS
    }


def header(text: str) -> str:
    """Return the comment that a file opens with, and the empty line after it; nothing where there is none."""
    comment, _, _ = text.partition("\n\n")
    return comment + "\n\n" if all(line.startswith("#") for line in comment.splitlines()) else ""


def body(section: Any, indent: str = "") -> str:
    """Return the keys of `section` and its subsections as YAML, a comment beside each."""
    return "".join(_lines(section, indent))


def _lines(section: Any, indent: str) -> Iterator[str]:
    for item in fields(section):
        value = getattr(section, item.name)
        if is_dataclass(value):
            yield f"\n{item.name}:\n{body(value, '  ')}"
            continue
        is_list = isinstance(value, tuple)
        plain = "" if value is None or is_list else _scalar(value)
        comment = _comment(section.__pydantic_fields__[item.name])
        yield f"{f'{indent}{item.name}: {plain}':<{COLUMN - 1}} # {comment}".rstrip("# ") + "\n"
        if is_list:
            yield from (f"{indent}- {name}\n" for name in value)


def _scalar(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, allow_unicode=True).removesuffix("\n...\n").strip()


def _comment(info: Any) -> str:
    """Say what a key is and may be; the names of a long list are left to the description."""
    allowed = range_of(info) or words(info).removeprefix("a list, without repeats, of ").removeprefix("one of ")
    allowed = allowed.removeprefix("from ").removeprefix("of ")
    if allowed in ("text", "true or false", "a mapping") or len(allowed) > WIDTH - COLUMN - 20:
        allowed = ""
    return ": ".join(part for part in (allowed, info.description or "") if part)


if __name__ == "__main__":
    run_stage(main)
