"""A model as files that need nothing of this project: ONNX, and a program of torch.export.

Both take raw pixels, uint8 (B, C, H, W) of any B, and give probabilities (B, classes); both hold the class names.
Equal models give equal bytes: what says where in which file of code a step came from, or for which device PyTorch
was built, is left out.
"""

import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from warnings import catch_warnings, simplefilter

import torch
from PIL import Image
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.torch_version import TorchVersion

from vtp.data.dataset import Split
from vtp.errors import UserError
from vtp.files import replacing
from vtp.inference import fused
from vtp.models import Model

INPUT, OUTPUT, CLASS_NAMES = "images", "probabilities", "class_names"
OPSET = 20
TOLERANCE = 1e-4  # of log-probabilities, which are the logits but for a constant of each image
EXAMPLES = 10


class Classifier(nn.Module):
    """A model whose answers are probabilities."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Probabilities (B, classes) of images (B, C, H, W), uint8."""
        return self.model(images).softmax(1)  # type: ignore[no-any-return]


def traced(model: Model) -> ExportedProgram:
    """Return the program of the model's probabilities, for any number of images; the model is on the CPU."""
    spec = model.spec
    images = torch.zeros(2, spec.channels, spec.image_size, spec.image_size, dtype=torch.uint8)
    with _without_warnings():
        program = torch.export.export(
            Classifier(fused(model)).eval(), (images,), dynamic_shapes={INPUT: {0: Dim("batch")}}
        )
    for node in program.graph.nodes:
        for name in ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node"):
            node.meta.pop(name, None)
    return program


def write_program(program: ExportedProgram, class_names: Sequence[str], path: Path) -> None:
    """Write what `traced` gave for `torch.export.load(path).module()`; class names are an extra file in it."""
    content = io.BytesIO()  # in a file, its name would be part of the bytes
    with _without_warnings(), _without_build():
        torch.export.save(program, content, extra_files={CLASS_NAMES: json.dumps(list(class_names))})
    with replacing(path) as temporary:
        temporary.write_bytes(content.getvalue())


def write_onnx(program: ExportedProgram, class_names: Sequence[str], path: Path) -> None:
    """Write what `traced` gave as ONNX; its metadata have the class names, as a JSON list."""
    with _without_warnings(), _without_build():
        exported = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes={INPUT: {0: "batch"}},
            verbose=False,
        )
    assert exported is not None
    proto = exported.model_proto
    _strip(proto)
    proto.metadata_props.add(key=CLASS_NAMES, value=json.dumps(list(class_names), ensure_ascii=False))
    with replacing(path) as temporary:
        temporary.write_bytes(proto.SerializeToString(deterministic=True))


def write_examples(split: Split, folder: Path) -> None:
    """Write the first image of each of the first EXAMPLES classes unaltered, as a PNG of the class's index."""
    for label in range(EXAMPLES):
        for image_CHW in split.images[split.labels == label][:1]:
            pixels = image_CHW.permute(1, 2, 0).squeeze(2).numpy()  # grey has no axis of channels
            with replacing(folder / f"{label}.png") as temporary:
                Image.fromarray(pixels).save(temporary)


def run_program(path: Path, batches: Sequence[Tensor]) -> Tensor:
    """Return the probabilities (N, classes) that the program at `path` gives for images (B, C, H, W), uint8."""
    module = torch.export.load(str(path)).module()
    with torch.no_grad():
        return torch.cat([module(batch) for batch in batches])


def run_onnx(path: Path, batches: Sequence[Tensor]) -> Tensor:
    """Return the probabilities (N, classes) that ONNX Runtime gives for images (B, C, H, W), uint8, on the CPU."""
    session = onnx_session(path)
    return torch.cat([torch.from_numpy(session.run([OUTPUT], {INPUT: batch.numpy()})[0]) for batch in batches])


def onnx_session(path: Path) -> Any:
    """Return ONNX Runtime's session of the file at `path`, on as many threads of the CPU as PyTorch has."""
    import onnxruntime  # here, because few need it

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def check(path: Path, found: Tensor, model: Model, batches: Sequence[Tensor]) -> float:
    """Return how far the log-probabilities of `found`, what the file at `path` gives, are from the model's.

    The largest difference over all classes and images (B, C, H, W). Raises UserError if it is above TOLERANCE.
    """
    with torch.no_grad():
        expected = torch.cat([model(batch).log_softmax(1) for batch in batches])
    smallest = torch.finfo(found.dtype).tiny  # a probability below it is 0, whose logarithm says nothing
    floor = torch.tensor(smallest).log()
    difference = float((found.clamp_min(smallest).log() - expected.clamp_min(floor)).abs().max())
    if not difference <= TOLERANCE:
        raise UserError(
            f"{path}: its log-probabilities differ from the model's by {difference:.2g} on test images; "
            f"allowed is {TOLERANCE:g}"
        )
    return difference


def _strip(proto: Any) -> None:
    """Remove the names of layers, files and lines, with the paths of this machine, from an ONNX model."""
    del proto.graph.value_info[:]
    del proto.graph.metadata_props[:]
    for item in (*proto.graph.node, *proto.graph.input, *proto.graph.output, *proto.graph.initializer):
        del item.metadata_props[:]
        item.doc_string = ""


@contextmanager
def _without_build() -> Iterator[None]:
    """Let files name PyTorch's release as 2.13.0 instead of 2.13.0+cpu or 2.13.0+cu130."""
    version = torch.__version__
    torch.__version__ = TorchVersion(version.partition("+")[0])
    try:
        yield
    finally:
        torch.__version__ = version


@contextmanager
def _without_warnings() -> Iterator[None]:
    """PyTorch's exporters use what PyTorch itself has deprecated."""
    with catch_warnings():
        simplefilter("ignore")
        yield
