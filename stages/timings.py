"""What a run took on this machine, and what its models cost: files that nothing depends on, as machines differ."""

import hashlib
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from stages.paths import model_path, repository_root
from vtp.files import read_json, write_json, write_text
from vtp.inference import for_inference
from vtp.latency import latency, peak_memory
from vtp.models import Model
from vtp.params import Params
from vtp.report import markdown_table

BATCHES = (1, 16, 128)


def timings_path(root: Path, md5: str) -> Path:
    """Return where the figures lie of the run whose fine-tuned checkpoint has this MD5, below the root."""
    return root / ".vtp" / "timings" / "latency" / f"{md5}.json"


def training_path(root: Path, stage: str, md5: str) -> Path:
    """Return where it lies when the training that gave the checkpoint of this MD5 began and ended."""
    return root / ".vtp" / "timings" / "training" / f"{stage}-{md5}.json"


def note_training(stage: str, start: float) -> None:
    """Note that the training that wrote the checkpoint of `stage` began at `start`, s since 1970, and ends now."""
    path = training_path(repository_root(), stage, _md5(model_path(stage)))
    write_json(path, {"start": start, "end": time.time()})


def training_times(root: Path, checkpoints: Mapping[str, str]) -> dict[str, tuple[float, float]]:
    """Return stage -> when its training began and ended, where it ran here.

    Args:
        root: of the repository.
        checkpoints: stage -> the MD5 of the checkpoint that it wrote.
    """
    paths = {stage: training_path(root, stage, md5) for stage, md5 in checkpoints.items()}
    notes = {stage: read_json(path) for stage, path in paths.items() if path.is_file()}
    return {stage: (note["start"], note["end"]) for stage, note in notes.items()}


def span(root: Path, times: Mapping[str, tuple[float, float]]) -> tuple[float, float] | None:
    """Return when a run of these `training_times` began and ended; None if it was not fine-tuned here.

    It began with the first training after the last run before it: an earlier one belongs to that, from whose
    results it went on.
    """
    if "finetune" not in times:
        return None
    last_start, end = times["finetune"]
    others = (read_json(path)["end"] for path in training_path(root, "finetune", "").parent.glob("finetune-*"))
    before = max((other for other in others if other <= last_start), default=0.0)
    return min(start for start, _ in times.values() if start >= before), end


def write_timings(models: Mapping[str, tuple[str, Model]], params: Params) -> None:
    """Measure latency and memory of each model, in its inference form, and file size; write and print them.

    Args:
        models: step -> the stage that wrote the model, and the model; the last is the fine-tuned one.
        params: of the run.
    """
    device = next(iter(models.values()))[1].mean.device
    content = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu(),
        "threads": torch.get_num_threads(),
        "instructions": params.machine.instructions,
        "models": {
            step: {
                "bytes": model_path(stage).stat().st_size,
                "batches": {str(size): _measured(for_inference(model), size) for size in BATCHES},
            }
            for step, (stage, model) in tqdm(models.items(), "timing", disable=None)
        },
    }
    path = timings_path(repository_root(), _md5(model_path("finetune")))
    write_json(path, content)
    write_text(path.with_suffix(".md"), text := timings_table(content))
    print(text, end="", flush=True)


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def _measured(model: Model, size: int) -> dict[str, float]:
    found = latency(model, size)
    return {
        "ms": 1000 * found.median,
        "ms_low": 1000 * found.low,
        "ms_high": 1000 * found.high,
        "repeats": found.repeats,
        "images_per_second": size / found.median,
        "memory_bytes": peak_memory(model, size),
    }


def timings_table(content: Mapping[str, Any]) -> str:
    """Return the Markdown table of what `write_timings` measured."""
    rows = []
    for step, model in content["models"].items():
        batches = model["batches"].values()
        times = (f"{batch['ms']:.2f} ({batch['ms_low']:.2f}-{batch['ms_high']:.2f})" for batch in batches)
        largest = model["batches"][str(BATCHES[-1])]
        memory = (f"{number / 1e6:.2f}" for number in (model["bytes"], largest["memory_bytes"]))
        rows.append((step, *times, f"{largest['images_per_second']:,.0f}", *memory))
    header = ("model", *(f"batch {size} (ms)" for size in BATCHES), "images/s", "file (MB)", "memory (MB)")
    return (
        f"Median time of a batch (fastest-slowest) on {content['device']}, threads: {content['threads']}, "
        f"instructions: {content['instructions']};\nimages/s and memory beside the weights at batch "
        f"{BATCHES[-1]}.\n\n" + markdown_table(header, rows)
    )


def flat(content: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures under names for MLflow, such as `latency/finetuned/batch_128_ms`."""
    return {
        f"latency/{step}/batch_{size}_{name}": batch[name]
        for step, model in content["models"].items()
        for size, batch in model["batches"].items()
        for name in ("ms", "images_per_second", "memory_bytes")
    } | {f"latency/{step}/file_bytes": model["bytes"] for step, model in content["models"].items()}


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
