"""A moving average of the weights over the steps, which is often better than the weights themselves."""

import torch

from vtp.models import Model, from_state


class Average:
    """An exponential moving average of a model in training (the EMA of arXiv:1512.00567, section 8).

    Attributes:
        model: the average, a model of its own.
    """

    def __init__(self, model: Model, decay: float) -> None:
        self.model = from_state(model.spec, model.state_dict())
        self.decay = decay

    @torch.no_grad()
    def update(self, model: Model, step: int) -> None:
        """Take in the weights and floating buffers of `model` after step number `step`, counted from 1.

        The decay begins low and rises to its value, so that the first weights are soon forgotten.
        """
        decay = min(self.decay, (1 + step) / (10 + step))
        for mean, tensor in zip(self.model.state_dict().values(), model.state_dict().values(), strict=True):
            if mean.is_floating_point():
                mean.lerp_(tensor, 1 - decay)
            else:
                mean.copy_(tensor)
