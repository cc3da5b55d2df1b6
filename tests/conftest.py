"""What the tests share: a clone of this project, and ways to run its stages there."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

# Before torch is imported anywhere: threads of several test processes would wait for each other.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
os.environ.pop("MLFLOW_TRACKING_URI", None)

# The same inputs at every run: a test that starts to fail was broken by a change. `make fuzz` draws others.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("fuzz", deadline=None, print_blob=True)
settings.load_profile("repeatable")

ROOT = Path(__file__).resolve().parent.parent
IDENTITY = {
    f"GIT_{role}_{what}": value
    for role in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "tester"), ("EMAIL", "tester@example.org"))
}


def run(folder: Path, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run `command` in `folder`; with `check`, fail the test with its output if it fails."""
    done = subprocess.run(
        command, cwd=folder, env=os.environ | IDENTITY, text=True, capture_output=True, check=False
    )
    if check and done.returncode:
        pytest.fail(f"{' '.join(command)} exited with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done


def clone(target: Path) -> Path:
    """Make a fresh git repository at `target` of the files that a clone of the working tree would have."""
    listed = run(ROOT, "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard").stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_bytes((ROOT / name).read_bytes())
    run(target, "git", "init", "--quiet")
    run(target, "git", "add", "--all")
    run(target, "git", "commit", "--quiet", "--message", "clone")
    return target


def stages_run(output: str) -> list[str]:
    """Return the names of the stages that DVC's output says it ran, in order, but `source`, which always runs."""
    start = "Running stage '"
    ran = [line.removeprefix(start).split("'")[0] for line in output.splitlines() if line.startswith(start)]
    return [name for name in ran if name != "source"]  # which runs every time


def write_params(folder: Path, *changes: tuple[str, str]) -> None:
    """Replace texts of the default params.yaml, each found exactly once, and write it to `folder`."""
    text = (ROOT / "configs" / "digits.yaml").read_text()
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    (folder / "params.yaml").write_text(text)


TINY = (
    (
        "- none\n- svd\n- qr\n- qr_full\n- qr_reduced\n- qr_pivoted\n- cod\n- lu\n- cholesky\n- evd\n",
        "- svd\n- qr\n",
    ),
    ("baseline:\n  epochs: 40", "baseline:\n  epochs: 4"),
    ("- mlp.hidden\n  epochs: 10", "- mlp.hidden\n  epochs: 1"),
    ("finetune:\n  epochs: 20", "finetune:\n  epochs: 1"),
)


@pytest.fixture(scope="session")
def make_clone(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that makes a named clone of the project."""
    return lambda name: clone(tmp_path_factory.mktemp(name))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that run pipelines first: whichever starts last decides how long two workers take."""
    slow = ("test_pipeline.py", "test_stages.py", "test_commands.py")
    items.sort(key=lambda item: item.path.name not in slow)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of MLflow without experiments: it takes seconds to make one."""
    from tests.tracking import client
    from vtp.tracking import SETTINGS

    os.environ.update(SETTINGS)
    path = tmp_path_factory.mktemp("empty") / "mlflow.db"
    client(path.parent).search_experiments()
    return path


@pytest.fixture
def store(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own for the experiments that a test publishes."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(empty_database, tmp_path)
    return tmp_path
