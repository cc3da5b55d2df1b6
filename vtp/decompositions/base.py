"""What every decomposition has in common: the record, its truncation and its error bound."""

import math
from abc import ABC, abstractmethod
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]
"""Of float64, unless said otherwise."""

EPS = float(np.finfo(np.float64).eps)

EXACTNESS = 1e-12
"""The relative Frobenius error that `reconstruct` stays under for every exact method.

`lu` alone can miss it: partial pivoting lets entries grow, by 2^(n-1) in the worst of all matrices and hardly at
all in those that are met (Golub & Van Loan, 4th ed., section 3.4.5), and the error with them.
"""


class NotDecomposable(ValueError):
    """The matrix has no decomposition of the kind asked for; the message says why in one sentence."""


class Decomposition(ABC):
    """The factors of an m×n matrix, as float64 tensors on the CPU.

    A subclass is a frozen dataclass of its factors with a classmethod `of` that computes them and a
    property `factors` that orders their product for truncation.
    """

    @classmethod
    @abstractmethod
    def of(cls, matrix: Array) -> Self:
        """Decompose a finite, non-empty m×n float64 array."""

    @property
    @abstractmethod
    def factors(self) -> tuple[Tensor, Tensor]:
        """(left m×k, right k×n) with k = min(m, n): their product is the matrix, leading terms first."""

    @property
    def rank(self) -> int | None:
        """The numerical rank, or None where the method does not reveal it."""
        return None

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n) of the decomposed matrix."""
        left, right = self.factors
        return left.shape[0], right.shape[1]

    def reconstruct(self) -> Tensor:
        """The product of the factors, m×n."""
        left, right = self.factors
        return left @ right

    def truncate(self, rank: int) -> tuple[Tensor, Tensor]:
        """The leading `rank` terms of `factors`, as views: (left m×rank, right rank×n).

        Every rank from 1 to min(m, n) works, also above the numerical rank; another one is a ValueError.
        """
        self._check(rank)
        left, right = self.factors
        return left[:, :rank], right[:rank]

    def bound(self, rank: int) -> float:
        """An upper bound, up to rounding, on ‖matrix − left·right‖_F of `truncate(rank)`.

        What is dropped is the product of the trailing columns of left, B, and rows of right, C, and
        ‖BC‖_F ≤ ‖B‖₂‖C‖_F with ‖B‖₂² = ‖BᵀB‖₂ ≤ ‖BᵀB‖_∞ (Golub & Van Loan, 4th ed., section 2.3).
        Methods with an orthogonal factor or a maximal pivot know a sharper one. ValueError as in `truncate`.
        """
        self._check(rank)
        left, right = self.factors
        dropped = left[:, rank:]
        row_sums = (dropped.T @ dropped).abs().sum(dim=1)
        return math.sqrt(float(row_sums.max())) * float(right[rank:].norm()) if len(row_sums) else 0.0

    def _check(self, rank: int) -> None:
        largest = min(self.shape)
        if not 1 <= rank <= largest:
            shape = "x".join(map(str, self.shape))
            raise ValueError(f"rank is {rank}, but a {shape} matrix allows 1 to {largest}.")


def numerical_rank(magnitudes: Array, shape: tuple[int, ...]) -> int:
    """How many of the magnitudes (singular values, pivots) exceed max(m, n)·eps·the largest.

    The tolerance of LAPACK users, NumPy's `matrix_rank` and MATLAB's `rank`.
    """
    return int(np.count_nonzero(magnitudes > max(shape) * EPS * magnitudes.max()))


def column_signs(columns: Array) -> Array:
    """The ±1 by which each column must be multiplied for its first largest-magnitude entry to be positive."""
    largest = np.abs(columns).argmax(axis=0)
    return np.where(columns[largest, np.arange(columns.shape[1])] < 0, -1.0, 1.0)


def leading(columns: Tensor, count: int) -> Tensor:
    """The first `count` columns, filled up with zero columns where there are fewer."""
    missing = count - columns.shape[1]
    return columns[:, :count] if missing <= 0 else torch.nn.functional.pad(columns, (0, missing))
