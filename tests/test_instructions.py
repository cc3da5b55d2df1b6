"""The environment that a stage computes in: what params.yaml asks for, and what the user has set."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from vtp.instructions import ALWAYS, PORTABLE

PRINTED = f"import json, os, stages; print(json.dumps([os.environ.get(name) for name in {[*ALWAYS, *PORTABLE]}]))"


def environment_of_a_stage(folder: Path, **own: str) -> dict[str, str | None]:
    """What of the variables a Python that starts as stages do has in `folder`; `own` are the user's."""
    environment = {name: value for name, value in os.environ.items() if name not in ALWAYS | PORTABLE}
    command = [sys.executable, "-c", PRINTED]
    settings = environment | {"PYTHONPATH": str(ROOT)} | own
    printed = subprocess.run(command, cwd=folder, env=settings, check=True, capture_output=True, text=True).stdout
    found: list[str | None] = json.loads(printed)
    return dict(zip([*ALWAYS, *PORTABLE], found, strict=True))


def test_native_leaves_the_libraries_to_choose(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("machine: {instructions: native}", encoding="utf-8")
    assert environment_of_a_stage(tmp_path) == ALWAYS | dict.fromkeys(PORTABLE)


@pytest.mark.parametrize("text", ["machine: {instructions: portable}", "machine: 3", "a: [", "", None])
def test_everything_else_keeps_them_to_what_all_have(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    assert environment_of_a_stage(tmp_path) == ALWAYS | PORTABLE


def test_what_the_user_has_set_stays(tmp_path: Path) -> None:
    found = environment_of_a_stage(tmp_path, GOMP_SPINCOUNT="7", MKL_CBWR="AUTO")
    assert (found["GOMP_SPINCOUNT"], found["MKL_CBWR"]) == ("7", "AUTO")
