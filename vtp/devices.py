"""Where the work is done."""

import torch

from vtp.errors import UserError


def choose_device(name: str) -> torch.device:
    """Return the device `name`, or with `auto` CUDA if there is one; UserError if `cuda` is asked for in vain."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("params.yaml: machine.device is 'cuda', but this machine has none; allowed: auto, cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)
