"""The optimizer of a training: one of PyTorch's, or two of them as one."""

from collections.abc import MutableMapping
from typing import Any

import torch
from torch import Tensor, nn

from vtp.models import Model
from vtp.params import TrainingParams


class Optimizer:
    """Optimizers of different parameters as one.

    Attributes:
        param_groups: those of all.
        state: parameter -> its moments, of all.
    """

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        self.parts = parts
        self.param_groups: list[dict[str, Any]] = [group for part in parts for group in part.param_groups]
        self.state: MutableMapping[Tensor, dict[str, Tensor]] = parts[0].state
        for part in parts:
            part.state = parts[0].state  # no parameter is in two of them

    def zero_grad(self) -> None:
        """Forget the gradients of all parameters."""
        for part in self.parts:
            part.zero_grad()

    def step(self) -> None:
        """Take a step on all parameters."""
        for part in self.parts:
            part.step()


def make_optimizer(model: Model, params: TrainingParams) -> Optimizer:
    """Return the optimizer that `params` name, decaying weight matrices alone; rates are yet to be set.

    Biases, norms, positions, the class token and importance scores are not decayed. Muon (arXiv:2502.16982, with
    its factor that lets it share AdamW's rates) is of the linear layers in blocks; the first and the last layer,
    convolutions and all that is not decayed have AdamW (arXiv:1711.05101).
    """
    hidden: list[nn.Parameter] = []
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for place, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            is_weight = name == "weight" and parameter.ndim > 1
            is_hidden = is_weight and parameter.ndim == 2 and place.startswith("blocks.")
            (hidden if is_hidden else decayed if is_weight else free).append(parameter)
    if params.optimizer != "muon":
        hidden, decayed = [], [*decayed, *hidden]
    kind = torch.optim.Adam if params.optimizer == "adam" else torch.optim.AdamW
    groups = [
        {"params": decayed, "weight_decay": params.weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    parts: list[torch.optim.Optimizer] = [kind(groups, fused=True)]
    if hidden:
        parts.append(torch.optim.Muon(hidden, weight_decay=params.weight_decay, adjust_lr_fn="match_rms_adamw"))
    return Optimizer(*parts)
