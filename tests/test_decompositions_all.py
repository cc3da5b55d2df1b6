"""Decomposing many matrices at a time: as one by one, with any number of threads."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from vtp.decompositions import METHODS, Decomposition, NotDecomposable, Timed, decompose, decompose_all

SHAPES = [(64, 64), (134, 64), (90, 40), (40, 90), (64, 64), (200, 150)]
MATRICES = {
    str(index): torch.from_numpy(np.random.default_rng(index).standard_normal(shape))
    for index, shape in enumerate(SHAPES)
}
MATRICES["symmetric"] = MATRICES["0"] + MATRICES["0"].T


def contents(outcome: Decomposition | NotDecomposable) -> str | bytes:
    if isinstance(outcome, NotDecomposable):
        return str(outcome)
    return b"".join(factor.contiguous().numpy().tobytes() for factor in outcome.factors)


def one_by_one(method: str) -> dict[str, str | bytes]:
    found = {}
    for name, matrix in MATRICES.items():
        try:
            found[name] = contents(decompose(matrix, method))
        except NotDecomposable as error:
            found[name] = contents(error)
    return found


def differing() -> list[tuple[str, int]]:
    """Return the methods and numbers of threads with which `decompose_all` gives other bytes."""
    torch.set_num_threads(1)
    with threadpool_limits(1):
        expected = {method: one_by_one(method) for method in METHODS}
    found = []
    for method in METHODS:
        for threads in (2, 1, 4):
            torch.set_num_threads(threads)
            together = decompose_all(MATRICES, method)
            same = {name: contents(timed.outcome) for name, timed in together.items()} == expected[method]
            if not same or torch.get_num_threads() != threads:
                found.append((method, threads))
    return found


def test_many_at_a_time_give_the_bytes_of_one_by_one_with_any_number_of_threads() -> None:
    # A process of its own: here OpenMP has been told to use one thread, which hides threads that were not told.
    program = "import test_decompositions_all as tests; print(tests.differing())"
    folder = Path(__file__).parent
    paths = os.pathsep.join([str(folder), str(folder.parent)])
    environment = {**os.environ, "PYTHONPATH": paths}
    del environment["OMP_NUM_THREADS"]
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_each_is_timed_and_in_the_order_given() -> None:
    together = decompose_all(MATRICES, "evd")
    assert list(together) == list(MATRICES)
    assert all(isinstance(timed, Timed) and timed.seconds > 0 for timed in together.values())
    assert isinstance(together["1"].outcome, NotDecomposable)
    assert isinstance(together["symmetric"].outcome, Decomposition)
