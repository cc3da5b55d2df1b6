"""Calibration: images without labels, and what layers read and give on them."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vtp.errors import UserError
from vtp.models.layers import LowRankConv2d, LowRankLinear

BATCH = 128


def calibration_images(images: Tensor, count: int, seed: int) -> Tensor:
    """Return `count` of the images (all, if there are fewer), drawn at random by `seed`, in their order."""
    drawn = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:count]
    return images[drawn.sort().values.to(images.device)]


class Calls(dict[str, tuple[Tensor, Tensor]]):
    """Name -> (input, output) of each layer's latest call."""

    def __init__(self) -> None:
        super().__init__()
        self._versions: dict[str, tuple[int, int]] = {}
        self._counts: Counter[str] = Counter()

    def note(self, name: str, read: Tensor, output: Tensor) -> None:
        """Take down a call that has just ended."""
        self[name] = read, output
        self._versions[name] = read._version, output._version
        self._counts[name] += 1

    def check_once(self, names: Iterable[str]) -> None:
        """Raise UserError if a layer has not been called once."""
        for name in names:
            if self._counts[name] != 1:
                raise UserError(
                    f"layer {name}: the model runs it {self._counts[name]} times on some images, but must run it "
                    "once; leave the layer alone, or give the images in larger batches"
                )

    def check_not_overwritten(self) -> None:
        """Raise UserError if what a layer read or gave has been overwritten in place since then."""
        for name, tensors in self.items():
            for what, tensor, version in zip(("reads", "gives"), tensors, self._versions[name], strict=True):
                if tensor._version != version:
                    raise UserError(
                        f"layer {name}: the model overwrites in place what it {what}; "
                        "leave the layer alone, or let the model make a new tensor"
                    )


@contextmanager
def watched(layers: Mapping[str, nn.Module]) -> Iterator[Calls]:
    """Give name -> (input, output) of each layer's latest call, up to date until the context is left."""
    seen = Calls()

    def noting(name: str) -> Callable[..., None]:
        return lambda layer, args, kwargs, output: seen.note(name, args[0] if args else kwargs["input"], output)

    hooks = [layer.register_forward_hook(noting(name), with_kwargs=True) for name, layer in layers.items()]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


class Reached(Exception):
    """A layer has been called; what follows it need not run."""


@contextmanager
def left_after(layer: nn.Module) -> Iterator[None]:
    """Leave every forward pass by `Reached` as soon as `layer` has given its output."""

    def leave(*_: object) -> None:
        raise Reached

    hook = layer.register_forward_hook(leave)
    try:
        yield
    finally:
        hook.remove()


def _reader(layer: nn.Module) -> nn.Module:
    """Return what reads the input of a layer: of a pair of factors the right one."""
    return layer.right if isinstance(layer, LowRankLinear | LowRankConv2d) else layer


def unfolding(layer: nn.Module) -> tuple[object, ...]:
    """Return how the layer, or pair of factors, cuts its input into rows.

    Layers of one input and one unfolding read the same rows.
    """
    layer = _reader(layer)
    if isinstance(layer, nn.Conv2d):
        return (layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    return ()


def first_readers(layers: Mapping[str, nn.Module], read: Mapping[str, Tensor]) -> dict[str, str]:
    """Return layer -> the first layer that reads the same tensor and unfolds it in the same way: the same rows."""
    first: dict[tuple[int, object], str] = {}
    return {name: first.setdefault((id(read[name]), unfolding(layer)), name) for name, layer in layers.items()}


def input_rows(layer: nn.Module, inputs: Tensor) -> Tensor:
    """Return the inputs as rows that the weight of a layer, or pair of factors, multiplies: (rows, in).

    The weight is flattened to (out, in).
    """
    layer = _reader(layer)
    if isinstance(layer, nn.Conv2d):
        inputs = F.unfold(
            inputs,
            layer.kernel_size,
            dilation=layer.dilation,
            padding=cast(tuple[int, ...], layer.padding),
            stride=layer.stride,
        ).transpose(1, 2)
    return inputs.reshape(-1, inputs.shape[-1])


def output_rows(layer: nn.Module, outputs: Tensor) -> Tensor:
    """Return outputs, (…, out), or those of a convolution (B, out, H, W), as rows: (rows, out).

    They are of a layer or pair of factors.
    """
    outputs = outputs.movedim(1, -1) if isinstance(_reader(layer), nn.Conv2d) else outputs
    return outputs.reshape(-1, outputs.shape[-1])


def carried_directions(squares: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues (k) and eigenvectors (n, k) of a sum of squares (n, n), but for those that carry nothing.

    Eigenvalues up to n·eps times the largest, the rounding of the sums, count as zero. Where most dimensions are
    dead, as the border of a 3×3 kernel on an image of one pixel, they are left out beforehand: LAPACK's divide and
    conquer takes minutes for thousands of zeros, and may not converge on what underflows between them.
    """
    live = squares.diagonal() > 0
    if 2 * int(live.sum()) < len(squares) and live.any():
        values, vectors = carried_directions(squares[live][:, live])
        return values, vectors.new_zeros(len(squares), len(values)).index_put((live,), vectors)
    values, vectors = torch.linalg.eigh(squares)
    carried = values > len(values) * torch.finfo(values.dtype).eps * values[-1]
    return values[carried], vectors[:, carried]
