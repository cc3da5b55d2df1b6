"""What int8 gains over float32 in ONNX Runtime: file size, time, and validation accuracy.

    python -m benchmarks.int8 [CONFIG] [--cpu]

The models are the exported one of the run in out/, and untrained ones of the params.yaml CONFIG (default:
configs/cifar10-small.yaml), dense and with every layer of the blocks factorised to half of its parameters, for
images of three channels and ten classes. Static: weights by channel and activations in the range that calibration
images give, as QDQ; dynamic: activations are quantised as they come. With --cpu the CPU seconds are counted.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor

from benchmarks.latency import BATCHES
from benchmarks.timing import machine, medians
from benchmarks.untrained_models import factorised, pixels, spec_of, untrained
from stages.paths import DATASET
from stages.shared import run_stage
from vtp.calibration.watching import calibration_images
from vtp.data.dataset import Split, load_dataset
from vtp.export import INPUT, OUTPUT, onnx_session, run_onnx, traced, write_onnx
from vtp.params import load_params
from vtp.report import markdown_table, percent

BATCH = 250  # images at once, of those that are not timed
EXPORTED = Path("out/export/model.onnx")
IMAGES = 1024  # for calibration
KEEP = 0.5


class Calibration(CalibrationDataReader):  # type: ignore[misc]
    """Batches of images for ONNX Runtime."""

    def __init__(self, images: Tensor) -> None:
        self.batches: Iterator[Tensor] = iter(images.split(BATCH))

    def get_next(self) -> dict[str, Any] | None:
        """Return the next batch, or None at the end."""
        batch = next(self.batches, None)
        return None if batch is None else {INPUT: batch.numpy()}


def main() -> None:
    """Print a table with a row for each model and kind of numbers."""
    parser = argparse.ArgumentParser(prog="benchmarks.int8", description=__doc__)
    parser.add_argument("config", nargs="?", type=Path, default=Path("configs/cifar10-small.yaml"))
    parser.add_argument("--cpu", action="store_true", help="count CPU seconds")
    arguments = parser.parse_args()
    params, dataset = load_params(arguments.config), load_dataset(DATASET)
    torch.set_num_threads(1)
    clock = time.process_time if arguments.cpu else time.perf_counter
    dense = spec_of(params)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cases = {"exported": (EXPORTED, calibration_images(dataset.train.images, IMAGES, 0))}
        for title, spec in (("dense", dense), (f"keep {KEEP}", factorised(dense, KEEP))):
            path = folder / f"{title}.onnx"
            write_onnx(traced(untrained(spec)), (), path)
            cases[f"{arguments.config.stem}, {title}"] = (path, pixels(spec, IMAGES))
        for title, (path, images) in cases.items():
            files = {"float32": path, **quantised(path, images, folder)}
            sessions = {kind: onnx_session(file) for kind, file in files.items()}
            runs = {kind: _run(session) for kind, session in sessions.items()}
            times = [medians(runs, images[:size], clock) for size in BATCHES]
            for kind, file in files.items():
                accurate = percent(accuracy(file, dataset.validation)) if title == "exported" else "-"
                found = (f"{1000 * seconds[kind]:.2f}" for seconds in times)
                rows.append((title, kind, f"{file.stat().st_size / 1e6:.2f}", accurate, *found))
    print(f"{machine()}; 1 thread; {'CPU ' if arguments.cpu else ''}milliseconds a batch\n")
    header = ("model", "numbers", "MB", "validation (%)", *(f"batch {size}" for size in BATCHES))
    print(markdown_table(header, rows), end="")


def quantised(path: Path, images: Tensor, folder: Path) -> dict[str, Path]:
    """Write the model at `path` with int8 weights below `folder`; return kind of quantisation -> file."""
    prepared, static, dynamic = (folder / f"{path.stem}-{kind}.onnx" for kind in ("prepared", "static", "dynamic"))
    quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
    options = {"MatMulConstBOnly": True}  # products of two activations stay in float32
    layers = ["MatMul", "Gemm", "Conv"]
    quantize_static(
        str(prepared),
        str(static),
        Calibration(images),
        op_types_to_quantize=layers,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        extra_options=options,
    )
    quantize_dynamic(
        str(prepared), str(dynamic), per_channel=True, weight_type=QuantType.QInt8, extra_options=options
    )
    return {"int8 static": static, "int8 dynamic": dynamic}


def accuracy(path: Path, split: Split) -> float:
    """Return the fraction of the images that the model at `path` gives their labels."""
    return float((run_onnx(path, split.images.split(BATCH)).argmax(1) == split.labels).float().mean())


def _run(session: Any) -> Any:
    return lambda images: session.run([OUTPUT], {INPUT: images.numpy()})


if __name__ == "__main__":
    run_stage(main)
