"""A moving average of the weights over the steps, which is often better than the weights themselves."""

import torch

from vtp.models import Model, from_state


class Average:
    """An exponential moving average of a model in training (the EMA of arXiv:1512.00567, section 8).

    Args:
        model: whose weights change in place.
        decay: of the average.

    Attributes:
        model: the average, a model of its own.
    """

    def __init__(self, model: Model, decay: float) -> None:
        self.model = from_state(model.spec, model.state_dict())
        self.decay = decay
        pairs = list(zip(self.model.state_dict().values(), model.state_dict().values(), strict=True))
        self._means, self._weights = zip(*(pair for pair in pairs if pair[0].is_floating_point()), strict=True)
        self._others = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights and buffers of the model after step number `step`, counted from 1.

        The decay begins low and rises to its value, so that the first weights are soon forgotten.
        """
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._means, self._weights, 1 - decay)
        for ours, theirs in self._others:
            ours.copy_(theirs)
