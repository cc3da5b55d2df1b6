"""The demo answers as the checkpoints do, in a real browser, and asks nobody else for anything."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from commands import demo
from stages.paths import model_path
from tests.browser import binary, browsing
from tests.conftest import ROOT
from tests.models import random_model
from tests.trained import PARAMS, digits
from vtp.checkpoint import load, save
from vtp.data.dataset import Resizing
from vtp.errors import UserError
from vtp.export import write_examples
from vtp.models import dense_spec
from vtp.predict import decode, predict
from vtp.report import percent

RESIZING = Resizing(8, 10, False, "bicubic")
STAGES = ("baseline", "finetune")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two models of digits, a few of these, a picture of another size and a file that is none."""
    folder = tmp_path_factory.mktemp("demo")
    spec = dense_spec(PARAMS.model, image_size=8, channels=1, classes=10)
    for seed, stage in enumerate(STAGES):
        model = random_model(spec, seed, dtype=torch.float32)
        save(model, folder / model_path(stage), digits().class_names, RESIZING)
    write_examples(digits().test, folder / demo.EXAMPLES)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 61, 3), dtype=np.uint8)).save(
        folder / "wide.png"
    )
    (folder / "notes.png").write_text("<b>none</b>")
    return folder


def best(project: Path, path: Path) -> list[str]:
    """What each model gives its best class for the picture, in percent."""
    image = decode(path.read_bytes(), str(path), 1, RESIZING)[None]
    return [percent(float(predict(load(project / model_path(stage)), image).max())) for stage in STAGES]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def outside() -> Iterator[socket.socket]:
    """Where everything that is not for this machine goes, by way of the proxy's variables."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield listener


@pytest.fixture
def served(project: Path, tmp_path: Path, outside: socket.socket) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process of the demo, whose temporary files lie in `tmp_path`, and its address."""
    port, proxy = free_port(), f"http://127.0.0.1:{outside.getsockname()[1]}"
    environment = os.environ | {
        "PORT": str(port),
        "PYTHONPATH": str(ROOT),
        "TMPDIR": str(tmp_path),
        "NO_PROXY": "localhost,127.0.0.1",
        **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), proxy),
    }
    command = [sys.executable, "-m", "commands.demo"]
    process = subprocess.Popen(command, cwd=project, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert "serving until Ctrl-C\n" in iter(process.stdout.readline, "")
    yield process, f"http://127.0.0.1:{port}/"
    process.kill()
    process.communicate()


@pytest.mark.slow
@pytest.mark.skipif(binary() is None, reason="no chromium is installed")
def test_a_browser_shows_what_both_models_say_and_nothing_leaves_the_machine(
    project: Path, served: tuple[subprocess.Popen[str], str], outside: socket.socket, tmp_path: Path
) -> None:
    process, address = served
    with browsing(tmp_path / "profile") as browser:

        def shown() -> list[str]:
            return re.findall(r"([\d.]+) % · [\d.]+ ms · [\d.]+ MB · [\d,]+ parameters", browser.text())

        browser.call("Page.navigate", url=address)
        browser.wait(lambda: "Compressed" in browser.text())
        assert shown() == []
        for name in ("wide.png", demo.EXAMPLES / "3.png"):
            browser.choose_file("input[type=file]", project / name)
            browser.wait(lambda name=name: shown() == best(project, project / name))
        browser.evaluate("document.querySelectorAll('.gallery-item')[5].click()")
        browser.wait(lambda: shown() == best(project, project / demo.EXAMPLES / "5.png"))
        browser.choose_file("input[type=file]", project / "notes.png")
        browser.wait(lambda: "notes.png is not an image that Pillow reads" in browser.text())
        asked = {request for request in browser.requests if not request.startswith(("data:", "blob:"))}
        assert asked
        assert all(request.startswith(address) for request in asked)
    with pytest.raises(BlockingIOError):
        outside.accept()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 0
    assert list(tmp_path.iterdir()) == [tmp_path / "profile"]


@pytest.fixture
def inside(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(project)
    monkeypatch.setenv("PORT", str(free_port()))
    return project


def test_a_model_that_is_missing_is_a_sentence(
    inside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^out/baseline/model.safetensors: no such file; run the stage"):
        demo.main()


@pytest.mark.usefixtures("inside")
def test_a_port_in_use_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setenv("PORT", str(taken.getsockname()[1]))
        with pytest.raises(
            UserError, match=r"^demo: port \d+: Address already in use; name another: PORT=7861 make"
        ):
            demo.main()


def test_without_gradio_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(
        UserError, match=r"^demo: gradio is not installed; make demo, or pip install '\.\[deploy\]'"
    ):
        demo.page({}, [])
