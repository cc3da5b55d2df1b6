"""Singular value decompositions (section 2.3.2 of the paper): condensed, full and randomised."""

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import torch
from torch import Tensor

from vtp.decompositions.base import Array, Decomposition, column_signs, leading, numerical_rank

OVERSAMPLING = 10
POWER_ITERATIONS = 2
SEED = 0


@dataclass(frozen=True, eq=False)
class SVD(Decomposition):
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
        return cls(torch.from_numpy(U[:, :rank]), torch.from_numpy(Sigma[:rank]), torch.from_numpy(V[:rank]))

    @cached_property
    def factors(self) -> tuple[Tensor, Tensor]:
        size, scale = min(len(self.U), self.V.shape[1]), self.Sigma.sqrt()
        count = len(scale)
        left, right = self.U[:, :count] * scale, self.V[:count].T * scale
        return leading(left, size), leading(right, size).T

    @property
    def rank(self) -> int:
        return len(self.Sigma)

    def bound(self, rank: int) -> float:
        """The exact error √(Σ_{i>rank} σᵢ²), by Eckart & Young (1936)."""
        self._check(rank)
        return float(self.Sigma[rank:].norm())


@dataclass(frozen=True, eq=False)
class FullSVD(SVD):
    """Full SVD, X = U Σ V with U m×m and V n×n unitary and Σ m×n diagonal, kept as its min(m, n) entries.

    Truncation and bound are those of the condensed SVD.
    """

    @classmethod
    def of(cls, matrix: Array) -> Self:
        U, Sigma, V = _singular_triplets(matrix, full=True)
        return cls(torch.from_numpy(U), torch.from_numpy(Sigma), torch.from_numpy(V))

    @property
    def rank(self) -> int:
        return numerical_rank(self.Sigma.numpy(), self.shape)


@dataclass(frozen=True, eq=False)
class RandomizedSVD(SVD):
    """Leading singular triplets by randomised subspace iteration, with a fixed seed.

    Halko, Martinsson & Tropp, arXiv:0909.4061, algorithms 4.4 and 5.1: 10 more sketch columns than the
    largest rank served, two power iterations. The record holds as many triplets as the sketch has columns, so
    its reconstruction is exact only for matrices of that rank or less.

    Truncation is that of the condensed SVD; by Pythagoras its error is √(residual² + Σ_{i>rank} σᵢ²).
    """

    residual: float
    """‖X − U Σ V‖_F, what the sketch has missed."""

    @classmethod
    def of(cls, matrix: Array, rank: int | None = None) -> Self:
        """Serve ranks up to `rank`, by default mn/(m + n): above that no truncation saves parameters."""
        rows, columns = matrix.shape
        served = rank if rank is not None else -(-rows * columns // (rows + columns))
        sketch_size = min(served + OVERSAMPLING, rows, columns)
        basis = _range_basis(matrix, sketch_size)
        projected = basis.T @ matrix
        residual = float(np.linalg.norm(matrix - basis @ projected))
        inner, Sigma, V = _singular_triplets(projected)
        U = basis @ inner
        signs = column_signs(U)
        count = numerical_rank(Sigma, matrix.shape)
        return cls(
            torch.from_numpy((U * signs)[:, :count]),
            torch.from_numpy(Sigma[:count]),
            torch.from_numpy((V * signs[:, None])[:count]),
            residual,
        )

    def bound(self, rank: int) -> float:
        """The exact error √(residual² + Σ_{i>rank} σᵢ²): what the sketch missed is orthogonal to the rest."""
        return float(np.hypot(self.residual, super().bound(rank)))


def _singular_triplets(matrix: Array, full: bool = False) -> tuple[Array, Array, Array]:
    """U, Σ, V with canonical signs; a wide matrix is solved as its transpose, for which gesdd is faster."""
    # NumPy's own gesdd, unlike SciPy's, lets other threads work meanwhile.
    rows, columns = matrix.shape
    if rows < columns:
        right, Sigma, left = np.linalg.svd(matrix.T, full_matrices=full)
        U, V = left.T, right.T
    else:
        U, Sigma, V = np.linalg.svd(matrix, full_matrices=full)
    signs = column_signs(U)
    U *= signs
    V[: len(signs)] *= signs[: len(V), None]
    V[len(signs) :] *= column_signs(V[len(signs) :].T)[:, None]
    return U, Sigma, V


def _range_basis(matrix: Array, size: int) -> Array:
    """An orthonormal m×size basis that nearly spans the leading left singular vectors."""
    sketch = np.random.default_rng(SEED).standard_normal((matrix.shape[1], size))
    basis = _orthonormal(matrix @ sketch)
    for _ in range(POWER_ITERATIONS):
        basis = _orthonormal(matrix @ _orthonormal(matrix.T @ basis))
    return basis


def _orthonormal(columns: Array) -> Array:
    Q: Array = np.linalg.qr(columns)[0]
    return Q
