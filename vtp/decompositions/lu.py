"""LU decompositions (section 2.3.4 of the paper) with partial and with complete pivoting.

Gaussian elimination stopped after r steps leaves the first r columns of L and rows of U, whose product is exact in
the pivot rows and misses the others by more than it has to. Truncation projects the matrix on what these rows of U
span: the nearest of all products with the same right factor, of the same size.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg.lapack import dgetrf
from torch import Tensor

from vtp.decompositions.base import Array, Decomposition, numerical_rank


@dataclass(frozen=True, eq=False)
class LU(Decomposition):
    """LU with partial pivoting, P A = L U (LAPACK getrf).

    L is unit lower triangular with entries of magnitude at most 1. Truncation projects A on its first `rank` pivot
    rows, with an error below the norm of the Schur complement that the elimination leaves. The product is exact to
    rounding in the largest entry that arises, for rare matrices one much larger than those of A (`EXACTNESS`).
    """

    P: Tensor
    """The m row indices of the permutation: A[P] = L U."""
    L: Tensor
    """m×k with k = min(m, n), unit lower triangular."""
    U: Tensor
    """k×n, upper triangular."""

    @classmethod
    def of(cls, matrix: Array) -> Self:
        # SciPy's own `lu` keeps other threads waiting.
        packed, swaps, _ = dgetrf(matrix)
        size = min(matrix.shape)
        L, U = np.tril(packed[:, :size]), np.triu(packed[:size])
        np.fill_diagonal(L, 1.0)
        return cls(*map(torch.from_numpy, (_row_order(swaps, len(matrix)), L, U)))

    @cached_property
    def factors(self) -> tuple[Tensor, Tensor]:
        left = torch.empty_like(self.L)
        left[self.P] = self.L
        return _projected(left, self.U)

    def bound(self, rank: int) -> float:
        """The error itself, ‖left[:, rank:]‖_F: the rows of right are orthonormal."""
        self._check(rank)
        return float(self.factors[0][:, rank:].norm())


@dataclass(frozen=True, eq=False)
class CompleteLU(Decomposition):
    """LU with complete pivoting, P A Q = L U (Golub & Van Loan, 4th ed., algorithm 3.4.3).

    Each pivot is the largest entry of what is left, the first one on ties, so L and D⁻¹U (D the diagonal of
    U) have entries of magnitude at most 1 and the pivots reveal the rank. Truncation projects A on its first
    `rank` pivot rows; its error is below the norm of the Schur complement, whose largest entry is the next pivot.
    """

    P: Tensor
    """The m row indices of the permutation: A[P][:, Q] = L U."""
    Q: Tensor
    """The n column indices of the permutation."""
    L: Tensor
    """m×k with k = min(m, n), unit lower triangular."""
    U: Tensor
    """k×n, upper triangular."""

    @classmethod
    def of(cls, matrix: Array) -> Self:
        if matrix.shape[0] > matrix.shape[1]:
            # The elimination treats rows and columns alike, and long rows are faster than many rows.
            packed, Q, P = _eliminate(matrix.T)
            packed = packed.T
        else:
            packed, P, Q = _eliminate(matrix)
        size = min(matrix.shape)
        pivots = np.diagonal(packed)
        L = np.tril(packed[:, :size]) / np.where(pivots == 0, 1.0, pivots)
        np.fill_diagonal(L, 1.0)
        return cls(*map(torch.from_numpy, (P, Q, L, np.triu(packed[:size]))))

    @property
    def rank(self) -> int:
        return numerical_rank(self.U.diagonal().abs().numpy(), self.shape)

    @cached_property
    def factors(self) -> tuple[Tensor, Tensor]:
        left, right = torch.empty_like(self.L), torch.empty_like(self.U)
        left[self.P] = self.L
        right[:, self.Q] = self.U
        return _projected(left, right)

    def bound(self, rank: int) -> float:
        """√((m − rank)(n − rank))·|u_{rank+1}|: no entry of the Schur complement exceeds the next pivot."""
        self._check(rank)
        rows, columns = self.shape
        pivots = self.U.diagonal().abs()
        return float(((rows - rank) * (columns - rank)) ** 0.5 * pivots[rank]) if rank < len(pivots) else 0.0


def _projected(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Factors of the same product, the first r rows of the right one an orthonormal basis of those of `right`."""
    Q, R = torch.linalg.qr(right.T)
    return left @ R.T, Q.T


def _row_order(swaps: NDArray[np.int32], rows: int) -> NDArray[np.int64]:
    """The permutation that getrf's interchanges of row i with row swaps[i] come to."""
    order = np.arange(rows, dtype=np.int64)
    for row, other in enumerate(swaps):
        order[[row, other]] = order[[other, row]]
    return order


def _eliminate(matrix: Array) -> tuple[Array, NDArray[np.int64], NDArray[np.int64]]:
    """The row and column order of the complete pivoting, and in one m×n array the pivot columns and rows.

    Column k of L times pivot k is left below the diagonal, row k of U right of it. LAPACK's getc2 would do,
    were it not for square matrices alone and did it not replace small pivots.
    """
    work = np.array(matrix, order="C")
    rows, columns = (np.arange(length, dtype=np.int64) for length in work.shape)
    for step in range(min(work.shape)):
        rest = work[step:, step:]
        row_maxima = np.maximum(rest.max(axis=1), -rest.min(axis=1))
        row = row_maxima.argmax()
        if row_maxima[row] == 0:
            break
        column = np.abs(rest[row]).argmax()
        for entries, other in (work, row), (rows, row), (work.T, column), (columns, column):
            entries[[step, step + other]] = entries[[step + other, step]]
        rest[1:, 1:] -= np.outer(rest[1:, 0], rest[0, 1:] / rest[0, 0])
    return work, rows, columns
