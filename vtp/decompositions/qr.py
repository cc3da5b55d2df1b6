"""QR decompositions (section 2.3.3 of the paper): full, reduced, rank-retaining and complete orthogonal."""

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from vtp.decompositions.base import Array, Decomposition, leading, numerical_rank


@dataclass(frozen=True, eq=False)
class Reflectors:
    """A unitary m×m matrix, kept as k Householder reflectors and k column signs as LAPACK's geqrf leaves it.

    Forming all m columns costs O(m²k), and truncation needs the leading ones alone.
    """

    vectors: Tensor
    """m×k, the Householder vectors below the diagonal."""
    tau: Tensor
    """The k scalar factors of the reflectors."""
    signs: Tensor
    """k entries ±1, multiplying the leading columns."""

    def columns(self, count: int) -> Tensor:
        """The leading m×count columns (LAPACK orgqr)."""
        used = min(count, len(self.tau))
        columns: Tensor = torch.linalg.householder_product(leading(self.vectors, count), self.tau[:used])
        columns[:, :used] *= self.signs[:used]
        return columns


class QR(Decomposition):
    """The QR decompositions: the left one of `factors` has orthonormal columns."""

    def bound(self, rank: int) -> float:
        """The exact error ‖R[rank:]‖_F, as the columns of Q are orthonormal and permuting keeps norms."""
        self._check(rank)
        return float(self.factors[1][rank:].norm())


@dataclass(frozen=True, eq=False)
class ReducedQR(QR):
    """Reduced QR, X = Q R with the diagonal of R ≥ 0 (LAPACK geqrf, orgqr).

    Truncation keeps the leading columns of Q and rows of R, which projects X on the span of its own first
    `rank` columns. Its error is ‖R[rank:]‖_F, however much the columns after those matter.
    """

    Q: Tensor
    """m×k with k = min(m, n), orthonormal columns."""
    R: Tensor
    """k×n, upper triangular."""

    @classmethod
    def of(cls, matrix: Array) -> Self:
        reflectors, R = _householder_qr(torch.from_numpy(matrix))
        return cls(reflectors.columns(len(R)), R)

    @property
    def factors(self) -> tuple[Tensor, Tensor]:
        return self.Q, self.R


@dataclass(frozen=True, eq=False)
class FullQR(QR):
    """Full QR, X = Q R with Q m×m unitary and the diagonal of R ≥ 0 (LAPACK geqrf, orgqr).

    Truncation gives the same factors as the reduced QR, with the same error ‖R[rank:]‖_F: the columns of Q
    past min(m, n) only ever meet zero rows of R.
    """

    reflectors: Reflectors
    """Q, as its Householder reflectors."""
    R1: Tensor
    """The first min(m, n) rows of R; the others are zero."""

    @classmethod
    def of(cls, matrix: Array) -> Self:
        return cls(*_householder_qr(torch.from_numpy(matrix)))

    @cached_property
    def Q(self) -> Tensor:
        """m×m, unitary."""
        return self.reflectors.columns(len(self.reflectors.vectors))

    @property
    def R(self) -> Tensor:
        """m×n, upper triangular."""
        return leading(self.R1.T, len(self.reflectors.vectors)).T

    @cached_property
    def factors(self) -> tuple[Tensor, Tensor]:
        return self.reflectors.columns(len(self.R1)), self.R1


@dataclass(frozen=True, eq=False)
class PivotedQR(QR):
    """Rank-retaining QR, X Π = Q [R₁ S; 0 0] with r the numerical rank (LAPACK geqp3).

    The diagonal of R₁ is positive and, up to rounding, non-increasing. Truncation keeps the leading columns of Q
    and rows of [R₁ S] Πᵀ, which projects X on the span of its first `rank` pivot columns. Its error is
    ‖[R₁ S][rank:]‖_F, at most √(n − rank)·2^rank times the optimum (Gu & Eisenstat, SIAM J. Sci. Comput. 17,
    1996) and close to it in practice.
    """

    reflectors: Reflectors
    """Q, as its Householder reflectors."""
    R1: Tensor
    """r×r, upper triangular and nonsingular."""
    S: Tensor
    """r×(n − r)."""
    Pi: Tensor
    """The n column indices of the permutation: X[:, Pi] = Q [R₁ S; 0 0]."""

    @classmethod
    def of(cls, matrix: Array) -> Self:
        reflectors, R, Pi = _pivoted_qr(matrix)
        rank = len(R)
        return cls(reflectors, R[:, :rank], R[:, rank:], Pi)

    @cached_property
    def Q(self) -> Tensor:
        """m×m, unitary."""
        return self.reflectors.columns(len(self.reflectors.vectors))

    @property
    def rank(self) -> int:
        return len(self.R1)

    @cached_property
    def factors(self) -> tuple[Tensor, Tensor]:
        size = min(len(self.reflectors.vectors), len(self.Pi))
        right = torch.zeros(size, len(self.Pi), dtype=torch.float64)
        right[: self.rank, self.Pi] = torch.cat([self.R1, self.S], dim=1)
        return self.reflectors.columns(size), right


@dataclass(frozen=True, eq=False)
class CompleteOrthogonal(Decomposition):
    """Complete orthogonal decomposition, X = Q [L 0; 0 0] Uᵀ with r the numerical rank.

    The paper's construction: a rank-retaining QR, then a QR of [R₁ S]ᵀ. The diagonal of L is positive.

    Truncation keeps the leading columns of Q L and of U, which projects the rows of X on the span of the
    first `rank` columns of U. Its error is ‖L[rank:, rank:]‖_F: dropping columns of a lower triangle loses
    less than dropping its rows, which would lose ‖L[rank:, :]‖_F, the error of the pivoted QR. (Stewart's
    pivoted QLP, SIAM J. Sci. Comput. 20, 1999, is this with a second pivoting.)
    """

    left_reflectors: Reflectors
    """Q, as its Householder reflectors."""
    L: Tensor
    """r×r, lower triangular and nonsingular."""
    right_reflectors: Reflectors
    """Z with U = Π Z, as its Householder reflectors."""
    Pi: Tensor
    """The n indices of the permutation Π: U[Pi] = Z."""
    X: Tensor
    """The decomposed matrix, m×n: X U = Q [L 0; 0 0], and that product costs less than forming Q does."""

    @classmethod
    def of(cls, matrix: Array) -> Self:
        reflectors, R, Pi = _pivoted_qr(matrix)
        right_reflectors, R2 = _householder_qr(R.T)
        return cls(reflectors, R2.T, right_reflectors, Pi, torch.from_numpy(np.array(matrix, order="C")))

    @cached_property
    def Q(self) -> Tensor:
        """m×m, unitary."""
        return self.left_reflectors.columns(len(self.left_reflectors.vectors))

    @cached_property
    def U(self) -> Tensor:
        """n×n, unitary."""
        return self._right_columns(len(self.Pi))

    @property
    def rank(self) -> int:
        return len(self.L)

    @cached_property
    def factors(self) -> tuple[Tensor, Tensor]:
        right = self._right_columns(min(self.X.shape)).T
        return leading(self.X @ right[: self.rank].T, len(right)), right

    def bound(self, rank: int) -> float:
        """The exact error ‖L[rank:, rank:]‖_F, as Q and U are unitary."""
        self._check(rank)
        return float(self.L[rank:, rank:].norm())

    def _right_columns(self, count: int) -> Tensor:
        rows = torch.empty(count, len(self.Pi), dtype=torch.float64)
        rows[:, self.Pi] = self.right_reflectors.columns(count).T
        return rows.T


def _householder_qr(matrix: Tensor) -> tuple[Reflectors, Tensor]:
    """The reflectors of Q and the min(m, n)×n factor R with a diagonal ≥ 0."""
    return _unpack(*torch.geqrf(matrix))


def _pivoted_qr(matrix: Array) -> tuple[Reflectors, Tensor, Tensor]:
    """The reflectors of Q, [R₁ S] of numerical rank r (r×n, diagonal > 0) and the column order."""
    (packed, tau), _, order = scipy.linalg.qr(matrix, mode="raw", pivoting=True, check_finite=False)
    reflectors, R = _unpack(torch.from_numpy(packed), torch.from_numpy(tau))
    rank = numerical_rank(R.diagonal().numpy(), matrix.shape)
    return reflectors, R[:rank], torch.from_numpy(order.astype(np.int64))


def _unpack(packed: Tensor, tau: Tensor) -> tuple[Reflectors, Tensor]:
    """The reflectors of Q and R with a diagonal ≥ 0, from the packed m×n result of geqrf or geqp3."""
    R = packed[: len(tau)].triu()
    signs = torch.where(R.diagonal() < 0, -1.0, 1.0).double()
    return Reflectors(packed[:, : len(tau)], tau, signs), R * signs[:, None]
