"""Eigenvalue decomposition (section 2.3.1 of the paper), where a real and well-conditioned one exists."""

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from vtp.decompositions.base import (
    EPS,
    EXACTNESS,
    Array,
    Decomposition,
    NotDecomposable,
    column_signs,
    numerical_rank,
)


@dataclass(frozen=True, eq=False)
class EVD(Decomposition):
    """Eigenvalue decomposition X = V Λ V⁻¹ of a square matrix with a real eigenbasis (LAPACK syevd, geev).

    Eigenvalues come by falling magnitude, eigenvectors of unit norm with the first largest-magnitude entry
    positive. NotDecomposable tells why there is none:

    - the matrix is not square;
    - an eigenvalue has an imaginary part above n·eps·‖X‖_F, the backward error of the QR algorithm
      (Golub & Van Loan, 4th ed., section 7.5.6), so that no rounding explains it;
    - the eigenvectors are dependent or so ill conditioned that V Λ V⁻¹ misses X by more than the exactness
      that every method promises (1e-12 of ‖X‖_F): numerically the matrix is defective.

    Symmetric matrices always pass. Truncation keeps the terms of the largest |λ|; for symmetric matrices that
    is the optimum, else the error is at most the ‖V₂‖₂‖Λ₂W₂‖_F of what is dropped, with W = V⁻¹.
    """

    V: Tensor
    """n×n, the eigenvectors as columns of unit norm."""
    Lambda: Tensor
    """The n eigenvalues, largest magnitude first."""
    V_inverse: Tensor
    """n×n."""

    @classmethod
    def of(cls, matrix: Array) -> Self:
        rows, columns = matrix.shape
        if rows != columns:
            raise NotDecomposable(f"A {rows}x{columns} matrix is not square, so it has no EVD.")
        symmetric = np.array_equal(matrix, matrix.T)
        factors = (_orthogonal_eigenbasis if symmetric else _eigenbasis)(matrix)
        return cls(*map(torch.from_numpy, factors))

    @property
    def rank(self) -> int:
        return numerical_rank(self.Lambda.abs().numpy(), self.shape)

    @cached_property
    def factors(self) -> tuple[Tensor, Tensor]:
        return self.V, self.Lambda[:, None] * self.V_inverse


def _orthogonal_eigenbasis(matrix: Array) -> tuple[Array, Array, Array]:
    values, V = scipy.linalg.eigh(matrix, driver="evd", check_finite=False)
    order = np.argsort(-np.abs(values), kind="stable")
    V = V[:, order]
    V *= column_signs(V)
    return V, values[order], V.T


def _eigenbasis(matrix: Array) -> tuple[Array, Array, Array]:
    # Most matrices end here, and the eigenvalues alone cost a fraction of the eigenvectors.
    _refuse_complex(np.linalg.eigvals(matrix), matrix)
    values, vectors = np.linalg.eig(matrix)
    # A conjugate pair that is complex by rounding alone spans the plane of its real and imaginary parts.
    V = np.where(values.imag < 0, vectors.imag, vectors.real)
    order = np.argsort(-np.abs(values.real), kind="stable")
    V, Lambda = V[:, order], values.real[order]
    V /= np.linalg.norm(V, axis=0)
    V *= column_signs(V)
    V_inverse = _inverse(V)
    with np.errstate(all="ignore"):
        residual = np.linalg.norm(matrix - (V * Lambda) @ V_inverse)
    if not residual <= EXACTNESS * np.linalg.norm(matrix):
        raise _ill_conditioned(f"condition number {np.linalg.cond(V):.1e}")
    return V, Lambda, V_inverse


def _refuse_complex(values: Array, matrix: Array) -> None:
    largest = np.abs(values.imag).max()
    if largest > len(matrix) * EPS * np.linalg.norm(matrix):
        count = np.count_nonzero(values.imag)
        raise NotDecomposable(f"{count} of the {len(matrix)} eigenvalues are complex: no eigenbasis is real.")


def _inverse(V: Array) -> Array:
    try:
        inverse: Array = np.linalg.inv(V)
    except np.linalg.LinAlgError:
        raise _ill_conditioned("singular") from None
    return inverse


def _ill_conditioned(how: str) -> NotDecomposable:
    return NotDecomposable(f"The eigenvectors are ill conditioned ({how}): the matrix is close to defective.")
