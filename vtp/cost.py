"""What a model costs by its spec: parameters and multiply-accumulates."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from vtp.models import ModelSpec, build, from_state


def parameters(spec: ModelSpec) -> int:
    """Return the number of weights of the model of `spec`."""
    return sum(parameter.numel() for parameter in build(spec).parameters())


def macs(spec: ModelSpec) -> int:
    """Return the multiply-accumulates that the model of `spec` spends on one image.

    Counted by running a model of that shape on one image: every matrix product and convolution that a forward
    pass really does, attention included; element-wise work is not counted.
    """
    zeros = {name: torch.zeros(like.shape, dtype=like.dtype) for name, like in build(spec).state_dict().items()}
    model = from_state(spec, zeros)
    image = torch.zeros(1, spec.channels, spec.image_size, spec.image_size)
    counter = _MacCounter()
    with torch.no_grad(), counter:
        model(image)
    return counter.macs


class _MacCounter(TorchFunctionMode):
    """Adds up the products of the calls made inside it.

    torch.utils.flop_counter counts the same (a test holds the two together), but importing what it stands on
    takes longer than most stages.
    """

    def __init__(self) -> None:
        super().__init__()
        self.macs: int = 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if function in (F.linear, torch.matmul, Tensor.matmul, Tensor.__matmul__):
            self.macs += result.numel() * args[0].shape[-1]
        elif function in (F.conv2d, torch.conv2d):
            self.macs += result.numel() * args[1][0].numel()
        return result
