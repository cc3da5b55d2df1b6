"""How L1 drives importance scores to zero while a model trains."""

from dataclasses import dataclass

import torch
from torch import Tensor

from vtp.numerics import sqrt
from vtp.training.optimizer import Optimizer


@dataclass(frozen=True)
class L1:
    """The penalty rate · ‖a‖₁ on importance scores (the paper's section 2.2), in one of two forms.

    Attributes:
        rate: the paper's λ.
        proximal: False adds the subgradient rate · sign(a) to the gradient, as network slimming does
            (arXiv:1708.06519); scores come near zero but never to it. True leaves the gradient alone and
            shrinks the scores after each step by the proximal operator in the optimizer's own metric
            (arXiv:2007.06120), a ← sign(a) · max(|a| - lr · rate / (√v̂ + ε), 0), which gives exact zeros.
    """

    rate: float
    proximal: bool

    @torch.no_grad()
    def after_backward(self, score: Tensor) -> None:
        """Add the subgradient to `score.grad`."""
        if not self.proximal and score.grad is not None:
            score.grad.add_(score.sign(), alpha=self.rate)

    @torch.no_grad()
    def after_step(self, score: Tensor, optimizer: Optimizer) -> None:
        """Shrink `score` by the proximal operator; `optimizer` has just taken its step on it."""
        if not self.proximal:
            return
        group = next(group for group in optimizer.param_groups if any(p is score for p in group["params"]))
        state = optimizer.state[score]
        unbiased = state["exp_avg_sq"] / (1 - group["betas"][1] ** state["step"])
        threshold = group["lr"] * self.rate / (sqrt(unbiased) + group["eps"])
        score.copy_(score.sign() * (score.abs() - threshold).clamp_min(0))
