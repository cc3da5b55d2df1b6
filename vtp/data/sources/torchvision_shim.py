"""torchvision's data sets, importable beside any build of PyTorch.

The torchvision of the package registry is compiled for the CUDA build of PyTorch. Beside a CPU build its
operators do not load, and `import torchvision` fails because they are missing. Declaring the two that the
import looks up is enough for the data sets, which use none of them.
"""

from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec
from pathlib import Path

import torch


def _operators_load() -> bool:
    spec = find_spec("torchvision")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("No module named 'torchvision'", name="torchvision")
    candidates = [Path(spec.origin).with_name("_C" + suffix) for suffix in EXTENSION_SUFFIXES]
    compiled = [path for path in candidates if path.is_file()]
    try:
        for path in compiled:
            torch.ops.load_library(path)
    except OSError:
        return False
    return bool(compiled)


# Declaring an operator that exists aborts the process, so only where they do not load; the library must stay
# referenced, or the declarations vanish with it.
if not _operators_load():
    _LIBRARY = torch.library.Library("torchvision", "FRAGMENT")
    for _operator in ("nms", "qnms"):
        _LIBRARY.define(f"{_operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from torchvision import datasets  # noqa: E402  (the import that needs the above)

__all__ = ["datasets"]
