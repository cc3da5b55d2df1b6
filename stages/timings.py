"""What the models of a run cost on this machine: a file that nothing depends on, since machines differ."""

import hashlib
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from stages.paths import model_path, repository_root
from vtp.files import write_json, write_text
from vtp.latency import latency, peak_memory
from vtp.models import Model
from vtp.params import Params
from vtp.report import markdown_table

BATCHES = (1, 16, 128)


def timings_path(root: Path, md5: str) -> Path:
    """Return where the figures lie of the run whose fine-tuned checkpoint has this MD5, below the root."""
    return root / ".vtp" / "timings" / "latency" / f"{md5}.json"


def write_timings(models: Mapping[str, tuple[str, Model]], params: Params) -> None:
    """Measure latency, memory and file size of each model; write and print them.

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
                "batches": {str(size): _measured(model, size) for size in BATCHES},
            }
            for step, (stage, model) in models.items()
        },
    }
    md5 = hashlib.md5(model_path("finetune").read_bytes(), usedforsecurity=False).hexdigest()
    path = timings_path(repository_root(), md5)
    write_json(path, content)
    write_text(path.with_suffix(".md"), text := timings_table(content))
    print(text, end="", flush=True)


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
