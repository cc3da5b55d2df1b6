"""A headless Chromium, driven over its debugging pipe: messages of JSON that end in a zero byte."""

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

BINARIES = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--disable-component-update",
    "--disable-background-networking",
    "--no-first-run",
    "--window-size=1200,900",
    "--remote-debugging-pipe",
)


def binary() -> str | None:
    """Where Chromium is, if it is installed."""
    return next(filter(None, map(shutil.which, BINARIES)), None)


class Browser:
    """One page of a running Chromium. Its requests are in `requests`, by their addresses."""

    def __init__(self, sent: BinaryIO, received: BinaryIO) -> None:
        self.sent, self.received = sent, received
        self.requests: list[str] = []
        self.number = 0
        self.session = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "DOM", "Runtime"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> Any:
        """The answer to a command of the protocol."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        self.sent.write(
            json.dumps(message | ({"sessionId": self.session} if self.session else {})).encode() + b"\0"
        )
        self.sent.flush()
        while (answer := self._message()).get("id") != self.number:
            if answer.get("method") == "Network.requestWillBeSent":
                self.requests.append(answer["params"]["request"]["url"])
        assert "error" not in answer, answer
        return answer["result"]

    def _message(self) -> dict[str, Any]:
        content = bytearray()
        while (byte := self.received.read(1)) not in (b"\0", b""):
            content += byte
        message: dict[str, Any] = json.loads(content)
        return message

    def evaluate(self, expression: str) -> Any:
        """What JavaScript makes of an expression."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def text(self) -> str:
        """What the page says."""
        return str(self.evaluate("document.body ? document.body.innerText : ''"))

    def wait(self, condition: Callable[[], object], seconds: float = 60) -> None:
        """Wait until the condition is true."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, self.text()
            time.sleep(0.2)

    def choose_file(self, selector: str, path: Path) -> None:
        """Give a file to an input of the page."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", files=[str(path)], nodeId=node)

    def screenshot(self, path: Path) -> None:
        """Write a picture of the page."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))


@contextmanager
def browsing(profile: Path) -> Iterator[Browser]:
    """A browser that keeps its files in `profile` and ends with the block."""
    chromium = binary()
    assert chromium
    reads, writes = os.pipe(), os.pipe()
    command = [
        "bash",
        "-c",
        f'exec "$@" 3<&{reads[0]} 4>&{writes[1]}',
        "bash",
        chromium,
        *OPTIONS,
        f"--user-data-dir={profile}",
    ]
    process = subprocess.Popen(command, pass_fds=(reads[0], writes[1]), stderr=subprocess.DEVNULL)
    os.close(reads[0])
    os.close(writes[1])
    try:
        with os.fdopen(reads[1], "wb") as sent, os.fdopen(writes[0], "rb") as received:
            yield Browser(sent, received)
    finally:
        process.kill()
        process.wait()
