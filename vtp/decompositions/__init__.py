"""Matrix decompositions (section 2.3 of the paper): exact records of factors, and their truncations.

    record = decompose(weight, "qr_pivoted")
    left, right = balance(*record.truncate(rank))

A new method is a subclass of `Decomposition` and an entry of `METHODS`.
"""

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import torch
from threadpoolctl import threadpool_limits
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


class Timed(NamedTuple):
    """The outcome of one decomposition, and the seconds that it took."""

    outcome: "Decomposition | NotDecomposable"
    seconds: float


def decompose_all(matrices: Mapping[str, Tensor], method: str) -> dict[str, Timed]:
    """Decompose each matrix as `decompose` does, several at a time; where there is none, give the reason.

    As many run at once as PyTorch has threads, each with one thread for its linear algebra: matrices of layers are
    too small for more threads to pay, and so the number of threads does not change the result.
    """

    def timed(matrix: Tensor) -> Timed:
        start = time.perf_counter()
        try:
            record: Decomposition | NotDecomposable = decompose(matrix, method)
            if isinstance(record, Decomposition):
                _ = record.factors  # which some methods form when they are first asked for
        except NotDecomposable as error:
            record = error
        return Timed(record, time.perf_counter() - start)

    threads = torch.get_num_threads()
    # Each thread has a number of threads of its own, and one that was not told it would call MKL with all cores.
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        with threadpool_limits(1), pool:
            return dict(zip(matrices, pool.map(timed, matrices.values()), strict=True))
    finally:
        torch.set_num_threads(threads)


def _as_float64(matrix: Tensor) -> Array:
    if matrix.ndim != 2 or matrix.numel() == 0 or not matrix.is_floating_point():
        shape = "x".join(map(str, matrix.shape))
        raise ValueError(f"A non-empty 2-D floating tensor is needed, not {matrix.dtype} of shape ({shape}).")
    exact = matrix.detach().to("cpu", torch.float64)
    if not torch.stack(exact.aminmax()).isfinite().all():
        raise ValueError("The matrix has entries that are NaN or infinite.")
    array: Array = exact.numpy()
    return array


__all__ = ["METHODS", "Decomposition", "NotDecomposable", "Timed", "balance", "decompose", "decompose_all"]
