"""Matrix decompositions (section 2.3 of the paper): exact records of factors, and their truncations.

    record = decompose(weight, "qr_pivoted")
    left, right = balance(*record.truncate(rank))

A new method is a subclass of `Decomposition` and an entry of `METHODS`.
"""

import torch
from torch import Tensor

from vtp.decompositions.balance import balance
from vtp.decompositions.base import Array, Decomposition, NotDecomposable
from vtp.decompositions.cholesky import Cholesky
from vtp.decompositions.evd import EVD
from vtp.decompositions.lu import LU, CompleteLU
from vtp.decompositions.qr import CompleteOrthogonal, FullQR, PivotedQR, ReducedQR
from vtp.decompositions.svd import SVD, FullSVD, RandomizedSVD

METHODS: dict[str, type[Decomposition]] = {
    "svd": SVD,
    "svd_full": FullSVD,
    "svd_randomized": RandomizedSVD,
    "qr": PivotedQR,
    "qr_full": FullQR,
    "qr_reduced": ReducedQR,
    "qr_pivoted": PivotedQR,
    "cod": CompleteOrthogonal,
    "lu": LU,
    "lu_complete": CompleteLU,
    "cholesky": Cholesky,
    "evd": EVD,
}


def decompose(matrix: Tensor, method: str) -> Decomposition:
    """Decompose an m×n matrix of any floating dtype and device, in float64 on the CPU.

    Raises ValueError for an unknown method, for anything but a non-empty 2-D floating tensor and for entries
    that are not finite; NotDecomposable where the method (`evd` alone) has no decomposition of this matrix.
    """
    if method not in METHODS:
        raise ValueError(f"method is {method!r}, allowed are {', '.join(METHODS)}.")
    return METHODS[method].of(_as_float64(matrix))


def _as_float64(matrix: Tensor) -> Array:
    if matrix.ndim != 2 or matrix.numel() == 0 or not matrix.is_floating_point():
        shape = "x".join(map(str, matrix.shape))
        raise ValueError(f"A non-empty 2-D floating tensor is needed, not {matrix.dtype} of shape ({shape}).")
    if not torch.isfinite(matrix).all():
        raise ValueError("The matrix has entries that are NaN or infinite.")
    array: Array = matrix.detach().to("cpu", torch.float64).numpy()
    return array


__all__ = ["METHODS", "Decomposition", "NotDecomposable", "balance", "decompose"]
