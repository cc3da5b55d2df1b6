"""ui: publish what the ledger lacks and serve it."""

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
from stages.paths import repository_root
from stages.shared import run_stage
from vtp.errors import UserError
from vtp.tracking import Experiment, compare_link, table_link, tracking_uri

HOST = "127.0.0.1"
LOG = Path(".vtp") / "ui.log"


def main() -> None:
    """Publish and print the links; serve the ledger until interrupted, unless MLFLOW_TRACKING_URI is a server."""
    root = repository_root()
    server = tracking_uri(root).rstrip("/")
    if server.startswith("http"):
        _print_links(publish_all(root), root, server)
        return
    port = _free_port()
    experiments = publish_all(root)
    # SIGINT too: a script that starts this in the background has it ignored.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    with suppress(KeyboardInterrupt), _serving(root, port) as process:
        _print_links(experiments, root, f"http://{HOST}:{port}")
        print("serving until Ctrl-C", flush=True)
        process.wait()
        raise _ended(root)


def _print_links(experiments: list[Experiment], root: Path, address: str) -> None:
    print(f"the table of all runs   {table_link(root, address)}")
    print(f"their comparison        {compare_link(experiments, root, address)}")


def _free_port() -> int:
    """Return PORT, or else 5000; raise UserError if that is no port or cannot be listened on."""
    port = os.environ.get("PORT", "5000")
    if not (port.isdecimal() and 0 < int(port) < 65536):
        raise UserError(f"ui: PORT is {port!r}, but must be a number from 1 to 65535")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, int(port)))
        except OSError as error:
            raise UserError(f"ui: port {port}: {error.strerror}; name another: PORT=5001 make ui") from error
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
