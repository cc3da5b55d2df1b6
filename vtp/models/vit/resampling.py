"""A trained vision transformer for images or patches of another size, from which its training goes on.

What a token stands for changes, so the logits do, too; but less is to be learned than from nothing, and with few
large patches an epoch takes less time than with many small ones (arXiv:2311.03233).
"""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from vtp.models.family import State
from vtp.models.vit.spec import ViTSpec


def resampled(spec: ViTSpec, state: State, image_size: int, patch_size: int) -> tuple[ViTSpec, State]:
    """Return spec and state for images of `image_size` pixels and patches of `patch_size`, which divides it.

    Positions are resized as an image with a pixel a patch, bicubically; those of the prefix tokens stay. The
    embedding is that of `resampled_embedding`. `resize` keeps the part of an image that the model sees.
    """
    prefix, patches_ND = state["positions"].tensor_split([spec.prefix_tokens])
    side = spec.image_size // spec.patch_size
    grid_DN = _resized(patches_ND.T.unflatten(1, (side, side)), image_size // patch_size, "bicubic").flatten(1)
    embedding = resampled_embedding(state["embedding.weight"], spec.patch_size, patch_size)
    resize = spec.resize and replace(spec.resize, size=round(spec.resize.size * image_size / spec.image_size))
    return (
        replace(spec, image_size=image_size, patch_size=patch_size, resize=resize),
        state | {"positions": torch.cat([prefix, grid_DN.T]), "embedding.weight": embedding},
    )


def resampled_embedding(weight: Tensor, old: int, new: int) -> Tensor:
    """Return the embedding's weight (D, C · new²) for patches of `new` pixels, from one (D, C · old²).

    It makes of resized patches what `weight` makes of them as they were, where patches become larger; where they
    become smaller, that in the least squares (PI-resize, arXiv:2212.08013, equation 4).
    """
    weight_DCP: Tensor = weight.double().unflatten(1, (old, old, -1)).permute(0, 3, 1, 2).flatten(2)
    pixels_PHW = torch.eye(old**2, dtype=torch.float64).unflatten(1, (old, old))
    resize_PQ = _resized(pixels_PHW, new, "bilinear").flatten(1)
    made_DCQ: Tensor = weight_DCP @ torch.linalg.pinv(resize_PQ).T
    return made_DCQ.reshape(len(weight), -1, new, new).permute(0, 2, 3, 1).flatten(1).to(weight.dtype)


def _resized(grids: Tensor, side: int, mode: str) -> Tensor:
    """Return (count, rows, columns) as (count, side, side), with antialias, in the dtype of `grids`."""
    return F.interpolate(grids[None], (side, side), mode=mode, antialias=True)[0]
