"""After factorising, refit the left factor and the bias of each layer, in closed form and without training.

Layers before it were factorised too, so a layer reads something else than its factors were made for. With the
right factor as it is, the left one is fitted so that the layer makes of that what it made in the model before.
"""

from torch import Tensor, nn

from vtp.calibration.refitting import refitted
from vtp.lowrank.pivots import pivot_form
from vtp.models import Model
from vtp.models.layers import PivotMix


def corrected(model: Model, reference: Model, images: Tensor) -> Model:
    """Return `model` with its left factors and their biases refitted to the outputs of the layers of `reference`.

    Args:
        model: the factorised model.
        reference: the model that was factorised, on the same device.
        images: uint8 (N, C, H, W), on that device.
    """
    return refitted(model, reference, images, {f"{name}.left": name for name in model.spec.factors}, _change)


def _change(model: Model, name: str, change: Tensor, shift: Tensor) -> None:
    layer = model.get_submodule(name)
    assert isinstance(layer, nn.Linear | nn.Conv2d | PivotMix)
    left = layer.weight.flatten(1).double() + change
    if isinstance(layer, PivotMix):  # whose pivots are rows of the product, which are others now
        right = model.get_submodule(f"{name.removesuffix('left')}right").weight
        assert isinstance(right, Tensor)
        pivots, mix, order = pivot_form(left.cpu(), right.flatten(1).double().cpu())
        right.copy_(pivots.view_as(right))
        layer.mix.copy_(mix)
        layer.order.copy_(order)
    else:
        layer.weight.copy_(left.view_as(layer.weight))
    if layer.bias is not None:
        layer.bias.add_(shift)
