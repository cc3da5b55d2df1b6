"""What reruns: dvc.yaml against the table in reruns.yaml, and against what the stages import and read."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT
from tests.params import RESNET, VIT, parse
from vtp.params import flatten

TABLE = yaml.safe_load((ROOT / "tests" / "reruns.yaml").read_text(encoding="utf-8"))
STAGES: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
CODE = sorted(str(path.relative_to(ROOT)) for room in ("stages", "vtp") for path in (ROOT / room).rglob("*.py"))
TRACKED = [stage for stage, entry in STAGES.items() if not entry.get("always_changed")]
IGNORED = [line for line in (ROOT / ".dvcignore").read_text().splitlines() if line.startswith("vtp/")]
LEAVES = list({**flatten(parse(VIT)), **flatten(parse(RESNET))})


def row(table: dict[str, list[str]], name: str, separator: str) -> str:
    """The longest row that stands for `name`."""
    rows = [key for key in table if name == key or name.startswith(key + separator) or Path(name).match(key)]
    assert rows, f"{name} is in no row of tests/reruns.yaml"
    return max(rows, key=len)


def depend_on(name: str) -> list[str]:
    """The stages whose deps name this file of code, or a folder around it."""
    if any(Path(name).match(pattern) for pattern in IGNORED):
        return []
    parents = {name, *(str(parent) for parent in Path(name).parents)}
    return [stage for stage, entry in STAGES.items() if parents & set(entry.get("deps", []))]


def test_a_change_of_code_reruns_what_the_table_says() -> None:
    used = {row(TABLE["code"], name, "/") for name in CODE}
    assert used == set(TABLE["code"])
    for name in CODE:
        assert depend_on(name) == TABLE["code"][row(TABLE["code"], name, "/")], name


def test_a_change_of_a_parameter_reruns_what_the_table_says() -> None:
    assert {row(TABLE["params"], leaf, ".") for leaf in LEAVES} == set(TABLE["params"])
    for leaf in LEAVES:
        found = [
            stage
            for stage, entry in STAGES.items()
            if any(leaf == key or leaf.startswith(f"{key}.") for key in entry.get("params", []))
        ]
        assert found == TABLE["params"][row(TABLE["params"], leaf, ".")], leaf


def imports(file: str) -> set[str]:
    """The files of this project that `file` imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    files = {name.replace(".", "/") for name in names}
    return {path for name in files for path in (f"{name}.py", f"{name}/__init__.py") if (ROOT / path).is_file()}


@pytest.mark.parametrize("stage", TRACKED)
def test_a_stage_depends_on_all_code_that_decides_what_it_writes(stage: str) -> None:
    """All that it imports, directly or not, but what the table says reruns nothing, and what that imports."""
    decides, waiting = set(), [f"stages/{stage}.py"]
    while waiting:
        file = waiting.pop()
        if file not in decides and TABLE["code"][row(TABLE["code"], file, "/")]:
            decides.add(file)
            waiting += imports(file)
    assert {file for file in decides if stage not in depend_on(file)} == set()
    rooms = {dep for dep in STAGES[stage]["deps"] if dep.startswith(("vtp/", "stages/"))}
    assert {room for room in rooms if not any(file.startswith(room) for file in decides)} == set()


def covered(key: str, keys: list[str]) -> bool:
    return any(key == other or key.startswith(f"{other}.") for other in keys)


@pytest.mark.parametrize("stage", TRACKED)
def test_a_stage_depends_on_all_parameters_that_it_reads_and_no_other(stage: str) -> None:
    text = (ROOT / f"stages/{stage}.py").read_text(encoding="utf-8")
    read = set(re.findall(r"\bparams\.(?!yaml)([a-z_]+(?:\.[a-z_0-9]+)*)", text))
    listed = STAGES[stage].get("params", [])
    if stage == "decompose":  # DVC starts it once for each of the methods
        read.remove("methods")
    assert {key for key in read if not covered(key, listed)} == set()
    assert {key for key in listed if not any(covered(other, [key]) for other in read)} == set()
