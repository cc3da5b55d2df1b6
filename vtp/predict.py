"""What a model says of images: files of any kind and size, or pixels."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vtp.data.dataset import Resizing
from vtp.data.sources.imagefolder import pixels
from vtp.errors import UserError
from vtp.inference import for_inference
from vtp.models import Model, in_batches


@torch.no_grad()
def predict(model: Model, images: Tensor) -> Tensor:
    """Return the probabilities (B, classes) of images (B, C, H, W), pixel values 0 to 255, uint8 or floating.

    Raises UserError if the model is for images of another shape, or the values are not from 0 to 255, such as
    those from 0 to 1 that other libraries want.
    """
    spec = model.spec
    wanted = (spec.channels, spec.image_size, spec.image_size)
    if tuple(images.shape[1:]) != wanted:
        raise UserError(
            f"the images are {_text(images.shape)}, but must be {_text(('B', *wanted))} for this model"
        )
    if images.dtype != torch.uint8 and len(images):
        low, high = float(images.min()), float(images.max())
        if not (low >= 0 and (high == 0 or 1 < high <= 255)):  # of NaN nothing is true
            raise UserError(f"the pixel values are from {low:g} to {high:g}, but must be from 0 to 255")
    fast = for_inference(model.eval())
    return torch.cat([fast(batch.to(model.mean.device)).softmax(1) for batch in in_batches(images, spec)])


def read_image(path: Path, channels: int, resizing: Resizing) -> Tensor:
    """Return the image at `path`, of any size, as a model wants it: (C, H, W), uint8.

    Args:
        path: of any kind of file that Pillow reads.
        channels: of the model, one for grey.
        resizing: how images come to the model's size.

    Raises UserError if there is no such file or it is no image.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    return decode(content, str(path), channels, resizing)


def decode(content: bytes, where: str, channels: int, resizing: Resizing) -> Tensor:
    """Return the image in a file's `content` as `read_image` does; raise UserError, which calls it `where`."""
    rgb = pixels(content, resizing, where)
    if channels == 1:
        return torch.from_numpy(np.array(Image.fromarray(rgb.transpose(1, 2, 0)).convert("L")))[None]
    return torch.from_numpy(rgb.copy())


def _text(shape: tuple[object, ...]) -> str:
    return "×".join(map(str, shape))
