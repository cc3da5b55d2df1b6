"""Importance scores: where they sit, and how L1 drives them to zero while a model trains.

A site is a place in the model that carries one score for each dimension; its name is the module's, such as
`blocks.3.mlp.hidden`. Its kind, such as `mlp.hidden`, names the same place in every block: `attention.inner`,
`mlp.hidden`, `attention.input` and `mlp.input` in a vision transformer, `block.inner` (of the site
`blocks.3.inner`) in a ResNet.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from vtp.models import Model, build, from_state
from vtp.models.layers import ImportanceScore
from vtp.numerics import sqrt
from vtp.training.optimizer import Optimizer


def with_scores(model: Model, kinds: tuple[str, ...]) -> Model:
    """Return a copy of a model without scores that has scores of one at every site of `kinds`.

    The copy computes the same logits: each dimension is multiplied by one.
    """
    spec = replace(model.spec, scored=kinds)
    ones = {
        f"{site}.score": torch.ones(score.shape, dtype=model.mean.dtype, device=model.mean.device)
        for site, score in scores(build(spec)).items()
    }
    return from_state(spec, {**model.state_dict(), **ones})


def scores(model: nn.Module) -> dict[str, Tensor]:
    """Return site -> its scores (dims,), live: changing them changes the model."""
    return {name: module.score for name, module in model.named_modules() if isinstance(module, ImportanceScore)}


def kind_of(site: str) -> str:
    """Return the kind of a site: `mlp.hidden` of `blocks.3.mlp.hidden`."""
    _, _, place = site.split(".", 2)
    return place if "." in place else f"block.{place}"


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
