"""What the factors of both LU decompositions must satisfy, and what truncation makes of them."""

import pytest
import torch
from hypothesis import given
from test_decompositions import EXACTNESS, matrices, truncation_error
from test_decompositions_factors import EXAMPLES, assert_close, assert_orthonormal_columns, assert_permutation
from torch import Tensor

from vtp.decompositions import decompose


@given(matrix=matrices())
@EXAMPLES
def test_lu(matrix: Tensor) -> None:
    (m, n), exact = matrix.shape, matrix.double()
    norm = float(exact.norm())
    partial, complete = decompose(matrix, "lu"), decompose(matrix, "lu_complete")
    for record in (partial, complete):
        assert (record.L.shape, record.U.shape) == ((m, min(m, n)), (min(m, n), n))
        assert torch.equal(record.L, record.L.tril())
        assert (record.L.diagonal() == 1).all()
        assert (record.L.abs() <= 1).all()
        assert torch.equal(record.U, record.U.triu())
        assert_permutation(record.P, m)
    assert_permutation(complete.Q, n)
    assert_close(exact[partial.P], partial.L @ partial.U, norm)
    assert_close(exact[complete.P][:, complete.Q], complete.L @ complete.U, norm)
    assert (complete.U.abs().amax(dim=1) == complete.U.diagonal().abs()).all()


@pytest.mark.parametrize("method", ["lu", "lu_complete"])
@given(matrix=matrices())
@EXAMPLES
def test_truncated_lu_is_the_projection_on_its_first_pivot_rows(method: str, matrix: Tensor) -> None:
    exact = matrix.double()
    record, norm = decompose(matrix, method), float(exact.norm())
    eliminated = torch.empty_like(record.L)
    eliminated[record.P] = record.L
    U = torch.empty_like(record.U)
    U[:, getattr(record, "Q", torch.arange(U.shape[1]))] = record.U
    for rank in range(1, min(matrix.shape) + 1):
        left, right = record.truncate(rank)
        assert_orthonormal_columns(right.T)
        assert_close(U[:rank] @ right.T @ right, U[:rank], float(U.norm()))  # its rows span those of U
        assert_close(left, exact @ right.T, norm)
        error = float((exact - eliminated[:, :rank] @ U[:rank]).norm())
        assert truncation_error(matrix, record, rank) <= error + EXACTNESS * norm
