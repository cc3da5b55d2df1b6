"""Singular value decompositions (section 2.3.2 of the paper): condensed, full and randomised."""

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import torch
from torch import Tensor

from vtp.decompositions.base import (
    EXACTNESS,
    Array,
    Decomposition,
    column_signs,
    leading,
    numerical_rank,
)
from vtp.numerics import sqrt

OVERSAMPLING = 10
POWER_ITERATIONS = 2
SEED = 0


class SingularTriplets(Decomposition):
    """The singular value decompositions: factors √Σ on either side, and the optimum of all errors."""

    Sigma: Tensor

    @property
    @abstractmethod
    def triplets(self) -> tuple[Tensor, Tensor, Tensor]:
        """U m×k, the k entries of Σ, largest first, and V k×n."""

    @cached_property
    def factors(self) -> tuple[Tensor, Tensor]:
        U, Sigma, V = self.triplets
        size, scale = min(len(U), V.shape[1]), sqrt(Sigma)
        return leading(U * scale, size), leading(V.T * scale, size).T

    def bound(self, rank: int) -> float:
        """The exact error √(Σ_{i>rank} σᵢ²), by Eckart & Young (1936)."""
        self._check(rank)
        return float(self.Sigma[rank:].norm())


@dataclass(frozen=True, eq=False)
class SVD(SingularTriplets):
    """Condensed SVD, X = U Σ V with r the numerical rank (LAPACK gesdd).

    As in the paper, the rows of V are the right singular vectors. Signs are canonical: the first
    largest-magnitude entry of each left singular vector is positive.

    Truncation keeps the leading singular triplets, √Σ on either side. Its error is the optimum of all
    rank-`rank` matrices, √(Σ_{i>rank} σᵢ²) (Eckart & Young 1936; Golub & Van Loan, theorem 2.4.8).
    """

    U: Tensor
    """m×r, orthonormal columns."""
    Sigma: Tensor
    """The r singular values, largest first."""
    V: Tensor
    """r×n, orthonormal rows."""

    @classmethod
    def of(cls, matrix: Array) -> Self:
        U, Sigma, V = _singular_triplets(matrix)
        rank = numerical_rank(Sigma, matrix.shape)
        return cls(*map(torch.from_numpy, (U[:, :rank], Sigma[:rank], V[:rank])))

    @property
    def triplets(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.U, self.Sigma, self.V

    @property
    def rank(self) -> int | None:
        return len(self.Sigma)


@dataclass(frozen=True, eq=False)
class FullSVD(SingularTriplets):
    """Full SVD, X = U Σ V with U m×m and V n×n unitary and Σ m×n diagonal, kept as its min(m, n) entries.

    Truncation and bound are those of the condensed SVD: the columns of U and rows of V past min(m, n) only ever
    meet zeros of Σ, and are formed when they are first asked for.
    """

    U1: Tensor
    """The first min(m, n) columns of U."""
    Sigma: Tensor
    """The min(m, n) singular values, largest first."""
    V1: Tensor
    """The first min(m, n) rows of V."""

    @classmethod
    def of(cls, matrix: Array) -> Self:
        return cls(*map(torch.from_numpy, _singular_triplets(matrix)))

    @cached_property
    def U(self) -> Tensor:
        """m×m, unitary."""
        return _completed(self.U1)

    @cached_property
    def V(self) -> Tensor:
        """n×n, unitary."""
        return _completed(self.V1.T).T

    @property
    def triplets(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.U1, self.Sigma, self.V1

    @property
    def rank(self) -> int:
        return numerical_rank(self.Sigma.numpy(), self.shape)


@dataclass(frozen=True, eq=False)
class RandomizedSVD(SVD):
    """Leading singular triplets by randomised subspace iteration, with a fixed seed.

    Halko, Martinsson & Tropp, arXiv:0909.4061, algorithms 4.4 and 5.1, as scikit-learn has them: two power
    iterations, and 10 more sketch columns than mn/(m + n), the largest useful rank. The record holds as many
    triplets as the sketch has columns, so its reconstruction is exact only for matrices of that rank or less.

    Truncation is that of the condensed SVD; by Pythagoras its error is √(residual² + Σ_{i>rank} σᵢ²).
    """

    residual: float
    """‖X − U Σ V‖_F, what the sketch has missed."""

    @classmethod
    def of(cls, matrix: Array) -> Self:
        from sklearn.utils.extmath import randomized_svd  # slow to import, and only needed here

        rows, columns = matrix.shape
        useful = -(-rows * columns // (rows + columns))  # above this rank no truncation saves parameters
        U, Sigma, V = randomized_svd(
            matrix,
            min(useful + OVERSAMPLING, rows, columns),
            n_oversamples=0,  # those count among the triplets
            n_iter=POWER_ITERATIONS,
            power_iteration_normalizer="QR",
            random_state=SEED,
        )
        residual = float(np.linalg.norm(matrix - (U * Sigma) @ V))
        count = numerical_rank(Sigma, matrix.shape)
        U, Sigma, V = map(torch.from_numpy, (U[:, :count], Sigma[:count], V[:count]))
        return cls(U, Sigma, V, residual)

    @property
    def rank(self) -> int | None:
        """The numerical rank if the sketch has missed nothing but rounding, else None."""
        found = len(self.Sigma)
        return found if self.residual <= EXACTNESS * float(self.Sigma.norm()) else None

    def bound(self, rank: int) -> float:
        """The exact error √(residual² + Σ_{i>rank} σᵢ²): what the sketch missed is orthogonal to the rest."""
        return float(np.hypot(self.residual, super().bound(rank)))


def _singular_triplets(matrix: Array) -> tuple[Array, Array, Array]:
    """U, Σ, V with canonical signs; a wide matrix is solved as its transpose, for which gesdd is faster."""
    # NumPy's own gesdd, unlike SciPy's, lets other threads work meanwhile.
    if matrix.shape[0] < matrix.shape[1]:
        right, Sigma, left = np.linalg.svd(matrix.T, full_matrices=False)
        U, V = left.T, right.T
    else:
        U, Sigma, V = np.linalg.svd(matrix, full_matrices=False)
    signs = column_signs(U)
    U *= signs
    V *= signs[:, None]
    return U, Sigma, V


def _completed(columns: Tensor) -> Tensor:
    """The orthonormal m×k columns and m - k more, of canonical signs, that make them a unitary matrix."""
    packed, tau = torch.geqrf(columns)
    missing = torch.linalg.householder_product(leading(packed, len(packed)), tau)[:, len(tau) :]
    return torch.cat([columns, missing * torch.from_numpy(column_signs(missing.numpy()))], dim=1)
