"""After pruning, refit what writes to the residual stream, in closed form and without training.

Each layer whose output is added to the residual stream has lost inputs. Its weight is fitted anew, so that from
the inputs that are left, as the slim model computes them, it makes what it made in the unpruned model.
"""

from torch import Tensor, nn

from vtp.calibration.refitting import refitted
from vtp.calibration.regression import Sums, fit
from vtp.models import Model


def corrected(model: Model, reference: Model, images: Tensor) -> Model:
    """Return `model` with its writers (`Model.writers`) refitted to the outputs of those of `reference`.

    Args:
        model: the slim model.
        reference: the scored model that it was cut from, on the same device.
        images: uint8 (N, C, H, W), on that device.
    """
    writers = [f"blocks.{index}.{name}" for index in range(len(model.blocks)) for name in model.writers]
    return refitted(model, reference, images, dict.fromkeys(writers, reference), _change)


def _change(model: Model, name: str, sums: Sums) -> None:
    layer = model.get_submodule(name)
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    takes_shift = layer.bias is not None or model.norm_of(name) is not None
    weight, bias = fit(layer, sums, takes_shift)
    layer.weight.copy_(weight.view_as(layer.weight))
    if layer.bias is not None:
        layer.bias.copy_(bias)
