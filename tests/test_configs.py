"""configs/: each is in the form that DVC writes, and its comments say what the code allows."""

import shutil
from pathlib import Path

import pytest
from dvc.utils.hydra import apply_overrides

from commands.configs import body, header, main
from tests.conftest import ROOT
from vtp.params import load_params

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
EVERY_CONFIG = pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)


@EVERY_CONFIG
def test_what_dvc_writes_differs_in_the_line_that_changed_alone(path: Path, tmp_path: Path) -> None:
    shutil.copy(path, tmp_path / "params.yaml")
    apply_overrides(tmp_path / "params.yaml", ["prune.rate=0.123"])
    before, after = path.read_text().splitlines(), (tmp_path / "params.yaml").read_text().splitlines()
    assert len(after) == len(before)
    changed = [line for line, old in zip(after, before, strict=True) if line != old]
    assert [line.split("#")[0].strip() for line in changed] == ["rate: 0.123"]


@EVERY_CONFIG
def test_the_comments_are_the_ranges_and_words_of_the_code(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text == header(text) + body(load_params(path))


@pytest.mark.parametrize("argument", ["model.weight_std=0.0", "model.width=64", "calibrate.batch=0"])
def test_a_new_key_comes_into_the_files_that_have_it_and_no_other(
    argument: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, value = argument.split(".")[1].split("=")
    (tmp_path / "configs").mkdir()
    for path in CONFIGS:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        without = "".join(line for line in lines if not line.startswith(f"  {key}: {value} "))
        (tmp_path / "configs" / path.name).write_text(without, encoding="utf-8")
    own = (CONFIGS[0].read_text(encoding="utf-8")).partition("\n\n")[2].replace("seed: 0 ", "seed: 7 ")
    (tmp_path / "params.yaml").write_text(own, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["commands.configs", argument])
    main()
    for path in CONFIGS:
        assert (tmp_path / "configs" / path.name).read_text(encoding="utf-8") == path.read_text(encoding="utf-8")
    assert (tmp_path / "params.yaml").read_text(encoding="utf-8") == own
