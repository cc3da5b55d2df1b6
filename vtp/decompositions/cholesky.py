"""Cholesky decomposition of the Gram matrix (section 2.3.5 of the paper): the normal-equations route."""

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg.lapack import dpstrf
from torch import Tensor

from vtp.decompositions.base import Array, Decomposition


@dataclass(frozen=True, eq=False)
class Cholesky(Decomposition):
    """Pivoted Cholesky of the smaller Gram matrix, Πᵀ A Aᵀ Π or Πᵀ Aᵀ A Π = Rᵀ R (LAPACK pstrf).

    With it comes Q = A Π R⁻¹ (for m < n: of Aᵀ), so that A = Q R Πᵀ (for m < n: its transpose). The Gram
    matrix squares the condition number: it sees only what exceeds √(k·eps) of the largest column,
    k = min(m, n), and `rank` counts that. The columns it cannot tell from dependent ones keep what the others
    leave of them, unit vectors in Q and their norms on the diagonal of R. Thereby A is reproduced to working
    precision whatever its condition, and RᵀR is the Gram matrix to k·eps of it; but the columns of Q are
    orthonormal only as far as R is well conditioned.

    Truncation keeps the leading columns of Q and rows of R: the projection of A on its first `rank` pivot
    columns (for m < n: rows). In exact arithmetic it is that of the pivoted QR, with error ‖R[rank:]‖_F.
    """

    Q: Tensor
    """max(m, n)×k."""
    R: Tensor
    """k×k, upper triangular with a diagonal ≥ 0."""
    Pi: Tensor
    """The k pivot indices: A[:, Pi] = Q R, or for m < n: A[Pi] = (Q R)ᵀ."""
    revealed_rank: int
    """The rank that the Gram matrix reveals."""
    transposed: bool
    """Whether m < n."""

    @classmethod
    def of(cls, matrix: Array) -> Self:
        transposed = matrix.shape[0] < matrix.shape[1]
        Q, R, Pi, rank = _pivoted_cholesky(matrix.T if transposed else matrix)
        return cls(torch.from_numpy(Q), torch.from_numpy(R), torch.from_numpy(Pi), rank, transposed)

    @property
    def rank(self) -> int:
        return self.revealed_rank

    @cached_property
    def factors(self) -> tuple[Tensor, Tensor]:
        right = torch.empty_like(self.R)
        right[:, self.Pi] = self.R
        return (right.T, self.Q.T) if self.transposed else (self.Q, right)


def _pivoted_cholesky(tall: Array) -> tuple[Array, Array, NDArray[np.int64], int]:
    """Q, R, Π and the rank that the Gram matrix reveals, for m ≥ n."""
    scale = 2.0 ** np.frexp(np.abs(tall).max(initial=0.0))[1]  # squares of the very large or small are no numbers
    tall = tall / scale
    packed, pivots, rank, _ = dpstrf(tall.T @ tall)
    order = pivots.astype(np.int64) - 1
    R = np.triu(packed)
    columns = tall[:, order]
    # PyTorch's trsm, unlike SciPy's, lets other threads work meanwhile.
    triangle, leading = map(torch.from_numpy, (R[:rank, :rank], columns[:, :rank]))
    leading.copy_(torch.linalg.solve_triangular(triangle, leading, upper=True, left=False))
    columns[:, rank:] -= columns[:, :rank] @ R[:rank, rank:]
    norms = np.linalg.norm(columns[:, rank:], axis=0)
    R[rank:, rank:] = np.diag(norms)
    columns[:, rank:] /= np.where(norms > 0, norms, 1.0)
    return columns, R * scale, order, rank
