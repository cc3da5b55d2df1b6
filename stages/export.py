"""export: the fine-tuned model as ONNX and as a program of torch.export, which need nothing of this project."""

from pathlib import Path

import torch

from stages.paths import PARAMS, model_path, report_path
from stages.shared import load_data, load_model, run_stage, set_up
from vtp.export import (
    OPSET,
    TOLERANCE,
    check,
    run_onnx,
    run_program,
    traced,
    write_examples,
    write_onnx,
    write_program,
)
from vtp.files import write_json
from vtp.models import in_batches
from vtp.params import load_params

FOLDER = Path("out/export")


def main() -> None:
    """Read the fine-tuned model; write both files, checked on the test images, a few of these, and a report."""
    set_up(load_params(PARAMS))
    cpu = torch.device("cpu")
    dataset = load_data(cpu)
    model, images = load_model("finetune", dataset, cpu), dataset.test.images
    batches = in_batches(images, model.spec)
    onnx, program_path = FOLDER / "model.onnx", FOLDER / "model.pt2"
    program = traced(model)
    write_program(program, dataset.class_names, program_path)
    write_onnx(program, dataset.class_names, onnx)
    differences = (
        check(onnx, run_onnx(onnx, batches), model, batches),
        check(program_path, run_program(program_path, batches), model, batches),
    )
    write_examples(dataset.test, FOLDER / "examples")
    parameters = sum(weight.numel() for weight in model.parameters())
    report = {
        "checkpoint": str(model_path("finetune")),
        "class_names": dataset.class_names,
        "images_checked": len(images),
        "tolerance": TOLERANCE,
        "opset": OPSET,
        "parameters": parameters,
        "bytes": {path.name: path.stat().st_size for path in (onnx, program_path)},
    }
    write_json(report_path("export"), report)
    print(
        f"export: {onnx} of {onnx.stat().st_size:,} bytes, {onnx.stat().st_size / parameters:.2f} a parameter; "
        f"log-probabilities as the model's within {max(differences):.1g} on {len(images)} test images"
    )


if __name__ == "__main__":
    run_stage(main)
