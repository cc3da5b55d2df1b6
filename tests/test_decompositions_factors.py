"""What each decomposition's own factors must satisfy."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from test_decompositions import EXACTNESS, matrices, optimal_errors, truncation_error, with_singular_values
from torch import Tensor

from vtp.decompositions import NotDecomposable, decompose
from vtp.decompositions.svd import OVERSAMPLING, RandomizedSVD

EXAMPLES = settings(max_examples=50)


def assert_close(actual: Tensor, expected: Tensor, scale: float) -> None:
    assert float((actual - expected).norm()) <= EXACTNESS * scale


def assert_orthonormal_columns(columns: Tensor) -> None:
    assert_close(columns.T @ columns, torch.eye(columns.shape[1], dtype=torch.float64), 1.0)


def assert_unitary(square: Tensor) -> None:
    assert square.shape[0] == square.shape[1]
    assert_orthonormal_columns(square)


def assert_permutation(order: Tensor, length: int) -> None:
    assert order.dtype == torch.int64
    assert order.sort().values.tolist() == list(range(length))


def assert_canonical_signs(columns: Tensor) -> None:
    largest = columns.abs().argmax(dim=0)
    assert (columns[largest, torch.arange(columns.shape[1])] > 0).all()


@given(matrix=matrices())
@EXAMPLES
def test_svd(matrix: Tensor) -> None:
    (m, n), exact = matrix.shape, matrix.double()
    condensed, full = decompose(matrix, "svd"), decompose(matrix, "svd_full")
    rank = condensed.rank
    assert full.rank == rank
    assert (condensed.U.shape, condensed.Sigma.shape, condensed.V.shape) == ((m, rank), (rank,), (rank, n))
    assert_orthonormal_columns(condensed.U)
    assert_orthonormal_columns(condensed.V.T)
    assert_unitary(full.U)
    assert_unitary(full.V)
    assert (full.Sigma >= 0).all()
    assert (full.Sigma.diff() <= 0).all()
    assert_canonical_signs(condensed.U)
    assert_canonical_signs(full.U)
    Sigma = torch.zeros(m, n, dtype=torch.float64)
    Sigma.diagonal().copy_(full.Sigma)
    assert_close(full.U @ Sigma @ full.V, exact, float(exact.norm()))
    assert_close((condensed.U * condensed.Sigma) @ condensed.V, exact, float(exact.norm()))


@given(matrix=matrices())
@EXAMPLES
def test_unpivoted_qr(matrix: Tensor) -> None:
    (m, n), exact = matrix.shape, matrix.double()
    size, norm = min(m, n), float(exact.norm())
    full, reduced = decompose(matrix, "qr_full"), decompose(matrix, "qr_reduced")
    assert_unitary(full.Q)
    assert_orthonormal_columns(reduced.Q)
    assert (full.Q.shape, full.R.shape) == ((m, m), (m, n))
    assert (reduced.Q.shape, reduced.R.shape) == ((m, size), (size, n))
    assert torch.equal(full.R, full.R.triu())
    assert torch.equal(reduced.R, reduced.R.triu())
    assert (full.R.diagonal() >= 0).all()
    assert_close(full.Q @ full.R, exact, norm)
    assert_close(reduced.Q @ reduced.R, exact, norm)
    assert_close(full.Q[:, :size], reduced.Q, 1.0)
    for rank in range(1, size + 1):
        for of_full, of_reduced in zip(full.truncate(rank), reduced.truncate(rank), strict=True):
            assert torch.equal(of_full, of_reduced)


@given(matrix=matrices())
@EXAMPLES
def test_rank_retaining_qr(matrix: Tensor) -> None:
    (m, n), exact = matrix.shape, matrix.double()
    record = decompose(matrix, "qr_pivoted")
    rank, norm = record.rank, float(exact.norm())
    assert_unitary(record.Q)
    assert record.Q.shape == (m, m)
    assert (record.R1.shape, record.S.shape) == ((rank, rank), (rank, n - rank))
    assert torch.equal(record.R1, record.R1.triu())
    assert (record.R1.diagonal() > 0).all()
    assert_permutation(record.Pi, n)
    R = torch.zeros(m, n, dtype=torch.float64)
    R[:rank] = torch.cat([record.R1, record.S], dim=1)
    assert_close(exact[:, record.Pi], record.Q @ R, norm)
    optimal = optimal_errors(matrix)
    for kept in range(1, min(m, n) + 1):
        proven = math.sqrt(n - kept) * 2.0**kept * optimal[kept]
        assert truncation_error(matrix, record, kept) <= proven + EXACTNESS * norm


@given(matrix=matrices())
@EXAMPLES
def test_complete_orthogonal_decomposition(matrix: Tensor) -> None:
    (m, n), exact = matrix.shape, matrix.double()
    record, pivoted = decompose(matrix, "cod"), decompose(matrix, "qr_pivoted")
    rank, norm = record.rank, float(exact.norm())
    assert_unitary(record.Q)
    assert_unitary(record.U)
    assert (record.Q.shape, record.L.shape, record.U.shape) == ((m, m), (rank, rank), (n, n))
    assert torch.equal(record.L, record.L.tril())
    assert (record.L.diagonal() > 0).all()
    middle = torch.zeros(m, n, dtype=torch.float64)
    middle[:rank, :rank] = record.L
    assert_close(record.Q @ middle @ record.U.T, exact, norm)
    assert rank == pivoted.rank
    for kept in range(1, min(m, n) + 1):
        error = truncation_error(matrix, record, kept)
        assert error <= truncation_error(matrix, pivoted, kept) + EXACTNESS * norm


@given(matrix=matrices())
@EXAMPLES
def test_cholesky_of_the_gram_matrix(matrix: Tensor) -> None:
    exact = matrix.double()
    tall = exact if len(exact) >= exact.shape[1] else exact.T
    size = tall.shape[1]
    norm = float(exact.norm())
    record = decompose(matrix, "cholesky")
    R = record.R
    assert torch.equal(R, R.triu())
    assert (R.diagonal() >= 0).all()
    assert_permutation(record.Pi, size)
    pivoted = tall[:, record.Pi]
    assert_close(record.Q @ R, pivoted, norm)
    assert_close(R.T @ R, pivoted.T @ pivoted, norm**2)


@pytest.mark.parametrize("shape", [(30, 12), (12, 30), (20, 20)])
def test_cholesky_agrees_with_pivoted_qr_where_the_gram_matrix_is_well_conditioned(
    shape: tuple[int, int],
) -> None:
    rng = np.random.default_rng(0)
    matrix = torch.from_numpy(with_singular_values(rng, *shape, np.linspace(1, 2, min(shape))))
    record = decompose(matrix, "cholesky")
    pivoted = decompose(matrix if shape[0] >= shape[1] else matrix.T, "qr")
    assert_orthonormal_columns(record.Q)
    assert_close(record.R.diagonal(), pivoted.R1.diagonal(), 2.0)
    assert record.Pi.tolist() == pivoted.Pi.tolist()


def test_cholesky_sees_half_the_digits_and_still_gives_the_matrix_back() -> None:
    rng = np.random.default_rng(0)
    matrix = torch.from_numpy(with_singular_values(rng, 30, 20, np.logspace(0, -14, 20)))
    record = decompose(matrix, "cholesky")
    seen = np.count_nonzero(np.logspace(0, -14, 20) > math.sqrt(20 * 2.0**-52))
    assert abs(record.rank - seen) <= 1
    assert_close(record.reconstruct(), matrix, float(matrix.norm()))


@given(matrix=matrices())
@EXAMPLES
def test_evd(matrix: Tensor) -> None:
    exact = matrix.double()
    try:
        record = decompose(matrix, "evd")
    except NotDecomposable:
        symmetric = exact.shape[0] == exact.shape[1] and torch.equal(exact, exact.T)
        assert not symmetric
        return
    norm = float(exact.norm())
    assert_close(record.V.norm(dim=0), torch.ones(len(exact), dtype=torch.float64), 1.0)
    assert_canonical_signs(record.V)
    assert (record.Lambda.abs().diff() <= 0).all()
    assert_close(record.V @ record.Lambda.diag() @ record.V_inverse, exact, norm)
    # An inverse has the residual eps·‖V‖‖V⁻¹‖ (Higham, Accuracy and Stability, 2nd ed., section 14.1).
    assert_close(
        record.V @ record.V_inverse,
        torch.eye(len(exact), dtype=torch.float64),
        float(record.V.norm() * record.V_inverse.norm()),
    )


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], "2x3 matrix is not square"),
        ([[0.0, -1.0], [1.0, 0.0]], "2 of the 2 eigenvalues are complex"),
        ([[1.0, 1.0], [0.0, 1.0]], "ill conditioned .*close to defective"),
        ([[0.0, 1.0], [0.0, 0.0]], "ill conditioned .*close to defective"),
    ],
)
def test_evd_refuses_with_the_reason(rows: list[list[float]], reason: str) -> None:
    with pytest.raises(NotDecomposable, match=reason):
        decompose(torch.tensor(rows), "evd")


def test_evd_counts_a_complex_pair_among_many_real_eigenvalues() -> None:
    pair = torch.tensor([[1.0, -0.1], [0.1, 1.0]])
    with pytest.raises(NotDecomposable, match="2 of the 7 eigenvalues are complex"):
        decompose(torch.block_diag(torch.diag(torch.tensor([9.0, 5.0, 3.0, -3.0, -7.0])), pair), "evd")


def test_evd_of_an_oblique_projection_with_repeated_eigenvalues() -> None:
    basis = np.eye(12) + np.random.default_rng(0).standard_normal((12, 12)) / 8
    matrix = torch.from_numpy((basis * np.repeat([1.0, 0.0], 6)) @ np.linalg.inv(basis))
    record = decompose(matrix, "evd")
    assert record.rank == 6
    assert_close(record.reconstruct(), matrix, float(matrix.norm()))


def test_evd_of_a_symmetric_matrix_truncates_optimally() -> None:
    rows = np.random.default_rng(0).standard_normal((15, 15))
    matrix = torch.from_numpy(rows + rows.T)
    record, optimal = decompose(matrix, "evd"), optimal_errors(matrix)
    for rank in range(1, 15):
        assert truncation_error(matrix, record, rank) <= optimal[rank] * (1 + 1e-10)


@pytest.mark.parametrize("shape", [(120, 90), (90, 120), (100, 100)])
@pytest.mark.parametrize("decay", [0.0, -2.0, -6.0])
def test_randomized_svd_is_near_the_optimum(shape: tuple[int, int], decay: float) -> None:
    """Theorem 10.5 of arXiv:0909.4061 bounds the expected error without power iterations, which only help."""
    rng = np.random.default_rng(1)
    matrix = with_singular_values(rng, *shape, np.logspace(0, decay, min(shape)))
    optimal = optimal_errors(torch.from_numpy(matrix))
    record = RandomizedSVD.of(matrix)
    assert_orthonormal_columns(record.U)
    assert_orthonormal_columns(record.V.T)
    assert_canonical_signs(record.U)
    assert record.rank is None
    useful = len(record.Sigma) - OVERSAMPLING
    for rank in (1, 10, useful):
        error = truncation_error(torch.from_numpy(matrix), record, rank)
        assert error <= math.sqrt(1 + useful / (OVERSAMPLING - 1)) * optimal[rank]
        assert error <= record.bound(rank) * (1 + 1e-10)
