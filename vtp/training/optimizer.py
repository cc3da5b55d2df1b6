"""The optimizer of a training: one of PyTorch's, or Muon beside it, as one."""

from typing import Any

import torch
from torch import Tensor, nn

from vtp.models import Model
from vtp.params import TrainingParams
from vtp.training.muon import Muon


class Optimizer:
    """Optimizers of different parameters as one.

    Attributes:
        param_groups: those of all.
        state: parameter -> its moments, of all.
    """

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        self.parts = parts
        self.param_groups: list[dict[str, Any]] = [group for part in parts for group in part.param_groups]
        self.state: dict[Tensor, dict[str, Tensor]] = parts[0].state
        for part in parts[1:]:
            self.state.update(part.state)
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

    Biases, norms, positions, the class token and importance scores are not decayed, nor is the mix of factors in
    the form `pivot`: their product shrinks by the other factor alone, as fast as a dense weight would. Muon is of
    the weights in blocks; the first and the last layer and all that is not decayed have AdamW (arXiv:1711.05101).
    """
    hidden: list[nn.Parameter] = []
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for place, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            is_weight = name == "weight" and parameter.ndim > 1
            is_hidden = is_weight and place.startswith("blocks.") and params.optimizer == "muon"
            (hidden if is_hidden else decayed if is_weight else free).append(parameter)
    kind = torch.optim.Adam if params.optimizer == "adam" else torch.optim.AdamW
    groups = [
        {"params": decayed, "weight_decay": params.weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    others = kind(groups, fused=True)
    return Optimizer(others, Muon(hidden, params.weight_decay)) if hidden else Optimizer(others)
