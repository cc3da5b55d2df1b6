"""The UI, for real, in a clone."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from filelock import FileLock

from commands import ui
from stages.training import LOCK, STATE, resume_folder
from vtp.errors import UserError
from vtp.sealed import write_sealed
from vtp.training.resume import KIND

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(make_clone: Callable[[str], Path]) -> Path:
    """A clone in which nothing has run."""
    return make_clone("ui")


def in_group(group: int) -> list[psutil.Process]:
    """Return the processes of a process group that have not ended."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


@pytest.fixture
def started(project: Path) -> Iterator[tuple[psutil.Popen, int, str]]:
    """`ui` on a free port, its server just started: the process, the server's process group and the address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, "-m", "commands.ui"]
    environment = os.environ | {"PORT": port}
    process = psutil.Popen(command, cwd=project, env=environment, stdout=subprocess.PIPE, text=True)
    group = 0
    while not group and process.poll() is None:
        time.sleep(0.2)
        group = next((child.pid for child in process.children() if "mlflow" in child.cmdline()), 0)
    yield process, group, f"http://127.0.0.1:{port}"
    for left in in_group(group):
        left.kill()
    with suppress(psutil.NoSuchProcess):
        process.kill()
    process.communicate()


def test_ui_serves_the_ledger_until_ctrl_c_and_leaves_no_process(started: tuple[psutil.Popen, int, str]) -> None:
    process, group, address = started
    said = list(iter(lambda: process.stdout.readline() or pytest.fail("ui has ended"), "serving until Ctrl-C\n"))
    assert [address in line for line in said] == [False, True, True]  # how many are new, and two links
    assert in_group(group)
    with urllib.request.urlopen(f"{address}/") as page:
        assert b"<html" in page.read()
    search = urllib.request.Request(
        f"{address}/api/2.0/mlflow/experiments/search",
        data=b'{"max_results": 10}',
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(search) as answer:
        assert "vtp" in [experiment["name"] for experiment in json.load(answer)["experiments"]]
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 0
    assert in_group(group) == []


def test_ui_shows_a_training_under_way_until_it_ends(
    project: Path, started: tuple[psutil.Popen, int, str]
) -> None:
    process, _, address = started
    for _ in iter(process.stdout.readline, "serving until Ctrl-C\n"):
        pass
    folder = resume_folder(project) / "baseline-1"
    folder.mkdir(parents=True)
    shutil.copy(project / "params.yaml", folder)
    history = [{"epoch": 0, "validation_accuracy": 0.5}, {"epoch": 1, "validation_accuracy": 0.75}]
    write_sealed(folder / STATE, KIND, [history, 0.75], {})
    with FileLock(folder / LOCK):
        wait_for(lambda: [run["metrics"][0]["value"] for run in running(address)] == [0.75])
    wait_for(lambda: running(address) == [])
    shutil.rmtree(folder)


def running(address: str) -> list[dict[str, dict[str, Any]]]:
    """The data of the running runs that a served ledger has."""
    query = {"experiment_ids": ["1"], "filter": "attributes.status = 'RUNNING'"}
    request = urllib.request.Request(
        f"{address}/api/2.0/mlflow/runs/search",
        data=json.dumps(query).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as answer:
        return [run["data"] for run in json.load(answer).get("runs", [])]


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.5)


def test_ui_that_is_ended_before_it_serves_leaves_no_process(started: tuple[psutil.Popen, int, str]) -> None:
    process, group, _ = started
    assert in_group(group)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 0
    assert in_group(group) == []


def test_a_port_in_use_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setenv("PORT", str(taken.getsockname()[1]))
        with pytest.raises(UserError, match=r"^ui: port \d+: Address already in use; name another: PORT=5001"):
            ui.main()
