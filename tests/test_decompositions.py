"""What holds for every decomposition, over matrices of every shape class."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vtp.decompositions import METHODS, Decomposition, NotDecomposable, balance, decompose
from vtp.decompositions.base import EXACTNESS
from vtp.decompositions.svd import RandomizedSVD

DISTINCT_METHODS = [name for name in METHODS if name != "qr"]
RANK_REVEALING = ["svd", "svd_full", "svd_randomized", "qr_pivoted", "cod", "lu_complete", "cholesky"]
DTYPES = [torch.float64, torch.float32, torch.bfloat16]


def with_singular_values(rng: np.random.Generator, m: int, n: int, values: np.ndarray) -> np.ndarray:
    """An m×n matrix with these singular values (as many as there are) and random singular vectors."""
    count = len(values)
    left = np.linalg.qr(rng.standard_normal((m, count)))[0]
    right = np.linalg.qr(rng.standard_normal((n, count)))[0]
    return (left * values) @ right.T


def grading(length: int) -> np.ndarray:
    return np.logspace(12, -12, length)


KINDS = {
    "gaussian": lambda rng, m, n: rng.standard_normal((m, n)),
    "zero": lambda rng, m, n: np.zeros((m, n)),
    "hilbert": lambda rng, m, n: 1 / (np.arange(m)[:, None] + np.arange(n) + 1),
    "low rank": lambda rng, m, n: with_singular_values(rng, m, n, np.ones(1 + min(m, n) // 3)),
    "repeated": lambda rng, m, n: with_singular_values(rng, m, n, 2.0 + (np.arange(min(m, n)) < 3)),
    "orthogonal": lambda rng, m, n: with_singular_values(rng, m, n, np.ones(min(m, n))),
    "decaying": lambda rng, m, n: with_singular_values(rng, m, n, np.logspace(0, -14, min(m, n))),
    "graded rows": lambda rng, m, n: grading(m)[:, None] * rng.standard_normal((m, n)),
    "graded columns": lambda rng, m, n: rng.standard_normal((m, n)) * grading(n),
    "graded both": lambda rng, m, n: grading(m)[:, None] * rng.standard_normal((m, n)) * grading(n),
    "huge": lambda rng, m, n: 1e30 * rng.standard_normal((m, n)),
    "tiny": lambda rng, m, n: 1e-30 * rng.standard_normal((m, n)),
    "ties": lambda rng, m, n: rng.integers(-1, 2, (m, n)).astype(float),
    "identity": lambda rng, m, n: np.eye(m, n),
    "repeated columns": lambda rng, m, n: np.repeat(rng.standard_normal((m, 1)), n, axis=1),
    "sparse": lambda rng, m, n: rng.standard_normal((m, n)) * (rng.random((m, n)) < 0.2),
    "symmetric": lambda rng, m, n: (lambda a: a + a.T)(rng.standard_normal((m, m))),
    "diagonalisable": lambda rng, m, n: (lambda v: (v * rng.standard_normal(m)) @ np.linalg.inv(v))(
        np.eye(m) + rng.standard_normal((m, m)) / (4 * m)
    ),
}
"""Generators (rng, m, n); the last two make m×m, where eigenvalue decompositions exist."""


@st.composite
def matrices(draw: st.DrawFn, largest: int = 16) -> Tensor:
    kind = draw(st.sampled_from(sorted(KINDS)))
    size = st.integers(1, largest)
    m, n, seed = draw(size), draw(size), draw(st.integers(0, 2**32 - 1))
    return torch.from_numpy(KINDS[kind](np.random.default_rng(seed), m, n)).to(draw(st.sampled_from(DTYPES)))


def try_decompose(matrix: Tensor, method: str) -> Decomposition | None:
    try:
        return decompose(matrix, method)
    except NotDecomposable:
        assert method == "evd"
        return None


def truncation_error(matrix: Tensor, record: Decomposition, rank: int) -> float:
    left, right = record.truncate(rank)
    assert left.shape == (matrix.shape[0], rank)
    assert right.shape == (rank, matrix.shape[1])
    return float((matrix.double() - left @ right).norm())


def optimal_errors(matrix: Tensor) -> np.ndarray:
    """The Frobenius errors of the best approximations of rank 0, 1, …, min(m, n), by Eckart and Young."""
    values = np.linalg.svd(matrix.double().numpy(), compute_uv=False)
    return np.append(np.sqrt(np.cumsum(values[::-1] ** 2))[::-1], 0.0)


def check_record(matrix: Tensor, record: Decomposition) -> None:
    """Exact reconstruction, and truncation at every rank between the optimum and the proven bound."""
    rounding = EXACTNESS * float(matrix.double().norm())
    optimal = optimal_errors(matrix)
    reconstruction = record.reconstruct()
    assert reconstruction.dtype == torch.float64
    missed_by_sketch = record.residual if isinstance(record, RandomizedSVD) else 0.0
    assert float((reconstruction - matrix.double()).norm()) <= missed_by_sketch + rounding
    for rank in range(1, min(matrix.shape) + 1):
        error = truncation_error(matrix, record, rank)
        assert error >= optimal[rank] * (1 - 1e-10) - rounding
        assert error <= record.bound(rank) * (1 + 1e-10) + rounding


def factor_bytes(record: Decomposition) -> list[bytes]:
    return [factor.contiguous().numpy().tobytes() for factor in (*record.factors, record.reconstruct())]


def test_qr_is_the_rank_retaining_one() -> None:
    assert METHODS["qr"] is METHODS["qr_pivoted"]


@pytest.mark.parametrize("method", DISTINCT_METHODS)
@settings(max_examples=40)
@given(matrix=matrices())
def test_truncation_lies_between_the_optimum_and_the_bound(method: str, matrix: Tensor) -> None:
    record = try_decompose(matrix, method)
    if record is not None:
        check_record(matrix, record)


@pytest.mark.parametrize("method", ["svd", "svd_full"])
@settings(max_examples=60)
@given(matrix=matrices())
def test_svd_truncation_is_optimal(method: str, matrix: Tensor) -> None:
    record = decompose(matrix, method)
    optimal = optimal_errors(matrix)
    rounding = EXACTNESS * float(matrix.double().norm())
    for rank in range(1, min(matrix.shape) + 1):
        assert truncation_error(matrix, record, rank) <= (1 + 1e-10) * optimal[rank] + rounding


@pytest.mark.parametrize("method", DISTINCT_METHODS)
@settings(max_examples=20)
@given(matrix=matrices())
def test_a_second_call_gives_the_same_bytes(method: str, matrix: Tensor) -> None:
    first = try_decompose(matrix, method)
    second = try_decompose(matrix.clone(), method)
    if first is not None and second is not None:
        assert factor_bytes(first) == factor_bytes(second)
    else:
        assert first is second


@pytest.mark.parametrize("method", DISTINCT_METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_narrow_dtypes_are_decomposed_as_the_float64_they_stand_for(method: str, dtype: torch.dtype) -> None:
    matrix = torch.diag(torch.arange(1.0, 6.0)) + 0.1
    narrow = matrix.to(dtype)
    assert factor_bytes(decompose(narrow, method)) == factor_bytes(decompose(narrow.double(), method))


@pytest.mark.parametrize("method", DISTINCT_METHODS)
def test_the_memory_layout_and_the_gradient_of_the_input_do_not_matter(method: str) -> None:
    matrix = torch.diag(torch.arange(1.0, 6.0).double()) + 0.1
    strided = torch.zeros(10, 10, dtype=torch.float64)[::2, ::2].copy_(matrix).requires_grad_()
    assert factor_bytes(decompose(strided, method)) == factor_bytes(decompose(matrix, method))


@pytest.mark.parametrize("method", DISTINCT_METHODS)
def test_neither_input_nor_record_changes_with_the_other(method: str) -> None:
    matrix = torch.diag(torch.arange(1.0, 6.0).double()) + 0.1
    before = matrix.clone()
    record = decompose(matrix, method)
    assert torch.equal(matrix, before)
    matrix.zero_()
    assert float((record.reconstruct() - before).norm()) <= EXACTNESS * float(before.norm())


@pytest.mark.parametrize("method", RANK_REVEALING)
@settings(max_examples=25)
@given(m=st.integers(1, 40), n=st.integers(1, 40), seed=st.integers(0, 2**32 - 1), data=st.data())
def test_the_numerical_rank_is_found(method: str, m: int, n: int, seed: int, data: st.DataObject) -> None:
    largest = min(m, n) if method != "svd_randomized" else -(-m * n // (m + n))
    rank = data.draw(st.integers(0, largest))
    rng = np.random.default_rng(seed)
    matrix = torch.from_numpy(with_singular_values(rng, m, n, np.logspace(0, -3, rank)))
    assert decompose(matrix, method).rank == rank


@pytest.mark.parametrize("method", DISTINCT_METHODS)
@pytest.mark.parametrize("scale", [2.0**-500, 2.0**-120, 2.0**120, 2.0**500])
@settings(max_examples=20)
@given(matrix=matrices(), data=st.data())
def test_entries_of_any_size_are_treated_like_ones_near_1(
    method: str, scale: float, matrix: Tensor, data: st.DataObject
) -> None:
    matrix = matrix.double() / (float(matrix.abs().max()) or 1.0)
    record, scaled = try_decompose(matrix, method), try_decompose(matrix * scale, method)
    assert (record is None) == (scaled is None)
    if record is None or scaled is None:
        return
    assert scaled.rank == record.rank
    assert float((scaled.reconstruct() / scale - matrix).norm()) <= EXACTNESS * float(matrix.norm())
    rank = data.draw(st.integers(1, min(matrix.shape)))
    left, right = scaled.truncate(rank)
    error = float((matrix - left @ right / scale).norm())
    assert error <= scaled.bound(rank) / scale * (1 + 1e-9) + EXACTNESS * float(matrix.norm())


@pytest.mark.parametrize("method", DISTINCT_METHODS)
@settings(max_examples=20)
@given(matrix=matrices(), data=st.data())
def test_balance_keeps_the_product_and_levels_both_sides(method: str, matrix: Tensor, data: st.DataObject) -> None:
    record = try_decompose(matrix, method)
    if record is None:
        return
    left, right = record.truncate(data.draw(st.integers(1, min(matrix.shape))))
    balanced_left, balanced_right = balance(left, right)
    # QR and SVD are backward stable in each factor: the product is kept relative to ‖left‖‖right‖.
    rounding = EXACTNESS * float(left.norm() * right.norm())
    assert float((balanced_left @ balanced_right - left @ right).norm()) <= rounding
    gram_left, gram_right = balanced_left.T @ balanced_left, balanced_right @ balanced_right.T
    assert float((gram_left - gram_right).norm()) <= rounding
    assert float((gram_left - gram_left.diagonal().diag()).norm()) <= rounding


@pytest.mark.parametrize(
    ("matrix", "reason"),
    [
        (torch.tensor([[1.0, torch.nan]]), "NaN or infinite"),
        (torch.tensor([[1.0, -torch.inf]]), "NaN or infinite"),
        (torch.ones(3), r"2-D .* shape \(3\)"),
        (torch.ones(2, 3, 4), r"2-D .* shape \(2x3x4\)"),
        (torch.ones(0, 3), "non-empty"),
        (torch.ones(2, 2, dtype=torch.int64), "floating"),
    ],
)
@pytest.mark.parametrize("method", DISTINCT_METHODS)
def test_unusable_input_is_a_value_error(method: str, matrix: Tensor, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        decompose(matrix, method)


def test_an_unknown_method_names_the_allowed_ones() -> None:
    with pytest.raises(ValueError, match=r"'nmf', allowed are svd, .*, evd\."):
        decompose(torch.eye(2), "nmf")


@pytest.mark.parametrize("method", DISTINCT_METHODS)
@pytest.mark.parametrize("rank", [-1, 0, 5])
def test_a_rank_out_of_range_is_a_value_error(method: str, rank: int) -> None:
    record = decompose(torch.eye(4), method)
    for use in (record.truncate, record.bound):
        with pytest.raises(ValueError, match=f"rank is {rank}, but a 4x4 matrix allows 1 to 4"):
            use(rank)


def test_a_randomised_svd_is_close_to_the_best_where_singular_values_fall_slowly() -> None:
    matrix = torch.randn(128, 128, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    record, sizes = decompose(matrix, "svd_randomized"), torch.linalg.svdvals(matrix)
    assert not isinstance(record, NotDecomposable)
    for rank in (16, 32, 64):
        left, right = record.truncate(rank)
        assert (matrix - left @ right).norm() < 1.03 * sizes[rank:].norm()
