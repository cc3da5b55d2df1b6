"""Muon: steps that move a weight alike in all directions (arXiv:2502.16982)."""

import math

import torch
from torch import Tensor, nn

from vtp.numerics import sqrt
from vtp.training.precision import bfloat16_is_faster

MOMENTUM = 0.95
STEPS, COEFFICIENTS = 5, (3.4445, -4.775, 2.0315)  # of the iteration, whose slope at zero is as steep as can be
RMS = 0.2  # of an update's entries at a rate of 1, as AdamW's are: the two can share rates


class Muon(torch.optim.Optimizer):
    """Muon of weights with rows, a convolution being a matrix (out, in · height · width).

    Weights of one shape are orthogonalised together. PyTorch's takes them one by one, and in bfloat16 on every
    device: without instructions for it, as in the portable mode, that takes most of a training step.
    """

    def __init__(self, weights: list[nn.Parameter], weight_decay: float) -> None:
        super().__init__(weights, {"lr": 0.0, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take a step on all weights that have a gradient."""
        for group in self.param_groups:
            rate, decay = group["lr"], group["lr"] * group["weight_decay"]
            by_shape: dict[torch.Size, list[nn.Parameter]] = {}
            for weight in group["params"]:
                if weight.grad is not None:
                    by_shape.setdefault(weight.flatten(1).shape, []).append(weight)
            for shape, weights in by_shape.items():
                updates = orthogonal(torch.stack([self._momentum(weight).flatten(1) for weight in weights]))
                for weight, update in zip(weights, updates, strict=True):
                    weight.mul_(1 - decay).add_(update.view_as(weight), alpha=-rate * RMS * math.sqrt(max(shape)))

    def _momentum(self, weight: nn.Parameter) -> Tensor:
        """Return Nesterov's: the mean of the gradients so far, moved on by this one."""
        gradient: Tensor = weight.grad  # type: ignore[assignment]
        state = self.state[weight]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        mean = state["momentum_buffer"].lerp_(gradient, 1 - MOMENTUM)
        return gradient.lerp(mean, MOMENTUM)


def orthogonal(matrices: Tensor) -> Tensor:
    """Return matrices (count, rows, columns) near U Vᵀ, where U Σ Vᵀ is the SVD of each, in the dtype given.

    By Newton and Schulz's iteration for a few steps, after which singular values lie around 1; multiplied in
    bfloat16 where the device does that in hardware, else in float32.
    """
    dtype = torch.bfloat16 if bfloat16_is_faster(matrices.device) else torch.float32
    wide = matrices.mT if matrices.shape[1] > matrices.shape[2] else matrices
    norms = sqrt(wide.square().sum((1, 2), keepdim=True))
    X = (wide / norms.clamp_min(1e-7)).to(dtype)
    a, b, c = COEFFICIENTS
    for _ in range(STEPS):
        gram = X @ X.mT
        X = torch.baddbmm(X, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), X, beta=a)
    return (X.mT if wide is not matrices else X).to(matrices.dtype)
