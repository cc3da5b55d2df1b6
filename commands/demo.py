"""demo: a page on which the dense and the compressed model answer beside each other for an image dropped on it.

Nothing leaves this machine: no telemetry, fonts from the package, and what is dropped is deleted at the end.
"""

import html
import os
import signal
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commands.ui import HOST, free_port
from stages.paths import model_path
from stages.shared import run_stage
from vtp.checkpoint import load, load_class_names, load_resizing
from vtp.cost import parameters
from vtp.data.dataset import Resizing
from vtp.errors import UserError
from vtp.inference import for_inference
from vtp.latency import latency
from vtp.models import Model
from vtp.predict import decode, predict
from vtp.report import percent

CHECKPOINTS = {"Dense": model_path("baseline"), "Compressed": model_path("finetune")}
EXAMPLES = Path("out/export/examples")
SHOWN = 5  # classes
SMALL = 64  # pixels: images of models for fewer are shown as the squares that they are
CSS = """
#image .image-frame, #image img {{width: 100%; height: 100%; object-fit: contain}}
img {{image-rendering: {}}}
"""


@dataclass(frozen=True)
class Contestant:
    """One of the models on the page."""

    path: Path
    model: Model
    class_names: Sequence[str]
    resizing: Resizing

    def facts(self) -> str:
        """Return in words what the model costs."""
        return f"{self.path.stat().st_size / 1e6:.2f} MB · {parameters(self.model.spec):,} parameters"

    def answer(self, content: bytes, name: str) -> tuple[dict[str, float], str]:
        """Return class -> probability for the image in a file's content, and the best with its cost in words.

        Raises UserError, which calls the file `name`, if it is no image.
        """
        image = decode(content, name, self.model.spec.channels, self.resizing)
        probabilities = predict(self.model, image[None])[0]
        time = latency(for_inference(self.model), 1, seconds=0.2).median
        words = f"{percent(float(probabilities.max()))} % · {1000 * time:.2f} ms"
        return dict(zip(self.class_names, probabilities.tolist(), strict=True)), f"{words} · {self.facts()}"


def main() -> None:
    """Serve the page until interrupted; raise UserError if a model is missing, or the port is taken."""
    port = free_port("demo", 7860)
    contestants = {
        title: Contestant(path, load(path), load_class_names(path), load_resizing(path))
        for title, path in CHECKPOINTS.items()
    }
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    is_small = all(contestant.resizing.image_size < SMALL for contestant in contestants.values())
    with suppress(KeyboardInterrupt), tempfile.TemporaryDirectory() as dropped:
        os.environ["GRADIO_TEMP_DIR"] = dropped
        blocks = page(contestants, sorted(EXAMPLES.glob("*.png")))
        blocks.launch(
            server_name=HOST,
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            footer_links=[],
            css=CSS.format("pixelated" if is_small else "auto"),
            allowed_paths=[str(EXAMPLES)],
        )
        try:
            print(f"the demo   http://{HOST}:{port}\nserving until Ctrl-C", flush=True)
            signal.pause()
        finally:
            blocks.close(verbose=False)


def page(contestants: Mapping[str, Contestant], examples: Sequence[Path]) -> Any:
    """Return Gradio's page of the models, by their titles, and of images to begin with.

    Raises UserError if Gradio is not installed.
    """
    try:
        import gradio
    except ModuleNotFoundError as error:
        raise UserError(
            "demo: gradio is not installed; make demo, or pip install '.[deploy]', brings it"
        ) from error

    def answers(file: Mapping[str, Any] | None) -> list[Any]:
        if file is None:
            return [part for contestant in contestants.values() for part in (None, contestant.facts())]
        content, name = Path(file["path"]).read_bytes(), file["orig_name"] or Path(file["path"]).name
        try:
            return [part for contestant in contestants.values() for part in contestant.answer(content, name)]
        except UserError as error:
            raise gradio.Error(html.escape(str(error)), print_exception=False) from error

    with gradio.Blocks(title="VTP", analytics_enabled=False) as blocks:
        gradio.Markdown(
            "# One image, two models\nDrop an image of any size: it is resized as the training images were."
        )
        with gradio.Row():
            with gradio.Column(min_width=240):
                image = gradio.Image(
                    show_label=False, sources=["upload", "clipboard"], height=300, elem_id="image"
                )
                if examples:
                    gradio.Examples([str(path) for path in examples], image, label="test images")
            outputs = []
            for title, contestant in contestants.items():
                with gradio.Column(min_width=240):
                    gradio.Markdown(f"## {title}")
                    label = gradio.Label(num_top_classes=SHOWN, show_label=False)
                    outputs += [label, gradio.Markdown(contestant.facts())]
        # As it was dropped, so that a file that is no image gets a sentence of ours.
        image.change(answers, image, outputs, preprocess=False, api_visibility="private")
    return blocks


if __name__ == "__main__":
    run_stage(main)
