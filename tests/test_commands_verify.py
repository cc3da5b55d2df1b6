"""`verify` on a small pipeline of shell commands: what counts as the same, and how a difference is named."""

import tempfile
from pathlib import Path

import pytest
import yaml

from commands.verify import main, make_clone
from tests.conftest import ROOT, run, write_params
from vtp.errors import UserError

pytestmark = pytest.mark.slow

PIPELINE = """\
stages:
  source:
    cmd: date +%s%N > stamp
    always_changed: true
    outs:
    - stamp
  fetch:
    cmd: cat data/images > copied
    deps:
    - code
    outs:
    - copied
  report:
    cmd: cat copied code > table
    deps:
    - copied
    outs:
    - table
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository whose committed dvc.lock is that of its code, with data that git ignores."""
    folder, temporary = tmp_path / "project", tmp_path / "temporary"
    for made in (folder / "data", temporary):
        made.mkdir(parents=True)
    write_params(folder, ("  path: ", "  path: data/images "), ("name: digits ", "name: imagefolder"))
    (folder / "data" / "images").write_text("1 2 3\n")
    (folder / "code").write_text("one\n")
    (folder / "dvc.yaml").write_text(PIPELINE)
    (folder / ".gitignore").write_text("/data\n")
    run(folder, "git", "init", "--quiet")
    run(folder, "dvc", "init", "--quiet")
    run(folder, "dvc", "repro", "--quiet")
    commit(folder)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    return folder


def commit(folder: Path) -> None:
    run(folder, "git", "add", "--all")
    run(folder, "git", "commit", "--quiet", "--message", "all")


def test_a_pipeline_that_writes_the_same_again_is_confirmed(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "code").write_text("not committed\n")
    before = {
        path: path.read_bytes() for path in project.rglob("*") if path.is_file() and ".git" not in path.parts
    }
    main()
    said = capsys.readouterr()
    assert said.out == "all 2 outputs of 2 stages are those of dvc.lock\n"
    assert said.err == "verify: source\nverify: fetch\nverify: report\n"
    assert all(path.read_bytes() == content for path, content in before.items())
    assert list(Path(tempfile.gettempdir()).iterdir()) == []


def test_data_beside_the_repository_are_found(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "data").rename(project.parent / "outside")
    for name in ("dvc.yaml", "params.yaml"):
        text = (project / name).read_text()
        (project / name).write_text(text.replace("data/images", "../outside/images"))
    commit(project)
    main()
    assert capsys.readouterr().out == "all 2 outputs of 2 stages are those of dvc.lock\n"


def test_weights_that_git_ignores_are_found(project: Path, tmp_path: Path) -> None:
    text = yaml.safe_load((ROOT / "configs" / "pretrained.yaml").read_text())
    text["data"]["path"] = "data/images"
    text["model"] |= {"source": "transformers/data/folder", "weights": "data/w.pth"}
    (project / "params.yaml").write_text(yaml.dump(text))
    commit(project)
    (project / "data" / "folder").mkdir()
    (project / "data" / "w.pth").write_text("weights")
    make_clone(project, tmp_path / "clone")
    assert {path.name for path in (tmp_path / "clone" / "data").iterdir()} == {"images", "folder", "w.pth"}


def test_the_first_file_that_differs_is_named_with_its_stage(project: Path) -> None:
    (project / "code").write_text("two\n")
    commit(project)
    with pytest.raises(UserError, match=r"^verify: stage report has written another table than dvc.lock has$"):
        main()
    (project / "data" / "images").write_text("4 5 6\n")
    with pytest.raises(UserError, match=r"^verify: stage fetch has written another copied than dvc.lock has$"):
        main()


def test_a_stage_that_is_not_in_the_lock_differs(project: Path) -> None:
    text = (project / "dvc.yaml").read_text()
    (project / "dvc.yaml").write_text(text + "  more:\n    cmd: echo > new\n    outs:\n    - new\n")
    commit(project)
    with pytest.raises(UserError, match=r"^verify: stage more has written another new than dvc.lock has$"):
        main()


def test_a_stage_that_fails_ends_with_its_last_words(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "dvc.yaml").write_text(PIPELINE.replace("cat copied code > table", "echo no paper >&2; exit 3"))
    commit(project)
    with pytest.raises(UserError, match=r"^verify: the pipeline failed in the clone"):
        main()
    assert "no paper\n" in capsys.readouterr().err


def test_without_a_lock_or_a_repository_there_is_one_sentence(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(project, "git", "rm", "--quiet", "dvc.lock")
    commit(project)
    with pytest.raises(UserError, match=r"^verify: HEAD has no dvc.lock"):
        main()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^verify: git cannot clone .*does not"):
        main()
