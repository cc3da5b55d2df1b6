"""ui: publish what the ledger lacks and serve it, with the epochs of trainings under way."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from commands.publish import publish_all
from commands.running import trainings
from stages.paths import LOCK, repository_root
from stages.shared import run_stage
from vtp.errors import UserError
from vtp.tracking import charts_link, publish_running, table_link, tracking_uri

HOST = "127.0.0.1"
EVERY = 5  # seconds between two looks at what is under way
LOG = Path(".vtp") / "ui.log"


def main() -> None:
    """Publish and print the links; serve the ledger until interrupted, unless MLFLOW_TRACKING_URI is a server."""
    root = repository_root()
    server = tracking_uri(root).rstrip("/")
    if server.startswith("http"):
        publish_all(root)
        _print_links(root, server)
        return
    port = free_port("ui", 5000)
    publish_all(root)
    # SIGINT too: a script that starts this in the background has it ignored.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    with suppress(KeyboardInterrupt), _serving(root, port) as process:
        _print_links(root, f"http://{HOST}:{port}")
        print("serving until Ctrl-C", flush=True)
        _keep_up(root, process)
        raise _ended(root)


def _keep_up(root: Path, process: subprocess.Popen[bytes]) -> None:
    """Publish what is under way and what finishes, as long as the server runs."""
    published = seen = _experiments(root)
    while process.poll() is None:
        try:
            publish_running(trainings(root), root)
            # While stages follow each other quickly nothing has finished.
            seen, before = _experiments(root), seen
            if published != seen == before:
                published = seen  # also where it fails: it is tried again after the next change
                publish_all(root)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
        time.sleep(EVERY)


def _experiments(root: Path) -> tuple[float, str]:
    """Return what changes where an experiment finishes: the time of dvc.lock, and git's names of experiments."""
    lock, command = root / LOCK, ["git", "for-each-ref", "refs/exps"]
    names = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False).stdout
    return lock.stat().st_mtime if lock.exists() else 0.0, names


def _print_links(root: Path, address: str) -> None:
    print(f"the table of all runs   {table_link(root, address)}")
    print(f"their comparison        {charts_link(root, address)}")


def free_port(command: str, default: int) -> int:
    """Return PORT, or else the default; raise UserError if that is no port or cannot be listened on."""
    port = os.environ.get("PORT", str(default))
    if not (port.isdecimal() and 0 < int(port) < 65536):
        raise UserError(f"{command}: PORT is {port!r}, but must be a number from 1 to 65535")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, int(port)))
        except OSError as error:
            raise UserError(
                f"{command}: port {port}: {error.strerror}; name another: PORT={default + 1} make {command}"
            ) from error
    return int(port)


@contextmanager
def _serving(root: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run MLflow's server, which answers when the block begins and has ended with its children after it."""
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", tracking_uri(root)]
    command += ["--workers", "1", "--host", HOST, "--port", str(port)]
    # Without jobs and with one worker it takes 0.5 GB instead of 3.2 GB.
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (root / LOG).open("wb") as log:
        # In a process group of its own: when MLflow's parent process ends, its child lives on.
        process = subprocess.Popen(
            command, cwd=root, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        while not _answers(port):
            if process.poll() is not None:
                raise _ended(root)
            time.sleep(0.2)
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def _ended(root: Path) -> UserError:
    return UserError(f"ui: the MLflow server has ended; {root / LOG} says why")


if __name__ == "__main__":
    run_stage(main)
