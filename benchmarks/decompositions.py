"""Speed of every decomposition against NumPy's and SciPy's own routines, and its error against the optimum.

Run it by `python -m benchmarks.decompositions`.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg
import torch
from numpy.typing import NDArray
from scipy.linalg.lapack import dgetc2, dpstrf
from torch import Tensor

from benchmarks.timing import machine
from benchmarks.untrained_models import spec_of
from stages.shared import run_stage
from vtp.decompositions import METHODS, NotDecomposable, decompose, decompose_all
from vtp.models import build, factorisable
from vtp.params import load_params

Array = NDArray[Any]

SHAPES = [(768, 768), (768, 3072), (3072, 768)]
PAPER = Path(__file__).resolve().parent.parent / "configs" / "paper.yaml"
REPEATS = 3

PLAIN: dict[str, dict[str, Callable[[Array], object]]] = {
    "svd": {
        "numpy svd": lambda a: np.linalg.svd(a, full_matrices=False),
        "scipy svd": lambda a: scipy.linalg.svd(a, full_matrices=False),
    },
    "svd_full": {"numpy svd": np.linalg.svd, "scipy svd": scipy.linalg.svd},
    "svd_randomized": {"scipy svd": lambda a: scipy.linalg.svd(a, full_matrices=False)},
    "qr_full": {"numpy qr": lambda a: np.linalg.qr(a, mode="complete"), "scipy qr": scipy.linalg.qr},
    "qr_reduced": {"numpy qr": np.linalg.qr, "scipy qr": lambda a: scipy.linalg.qr(a, mode="economic")},
    "qr_pivoted": {"scipy qr": lambda a: scipy.linalg.qr(a, mode="economic", pivoting=True)},
    "cod": {"scipy qr": lambda a: scipy.linalg.qr(a, mode="economic", pivoting=True)},
    "lu": {"scipy lu": lambda a: scipy.linalg.lu(a, p_indices=True)},
    "lu_complete": {"LAPACK getc2": lambda a: dgetc2(a) if len(a) == a.shape[1] else None},
    "cholesky": {"LAPACK pstrf": lambda a: dpstrf(a @ a.T if len(a) < a.shape[1] else a.T @ a)},
    "evd": {"numpy eig": lambda a: np.linalg.eig(a) if len(a) == a.shape[1] else None},
}
"""The plain routines, which neither fix signs, find ranks nor check for NaN as ours do."""

LAZY = {"svd_full": ("U", "V"), "qr_full": ("Q", "R")}
"""Square factors, which the plain routines form too and ours when they are asked for."""


def factorise(matrix: Tensor, method: str) -> None:
    """Decompose and form all factors, those of a truncation too, or be refused."""
    with suppress(NotDecomposable):
        record = decompose(matrix, method)
        _ = record.factors
        for lazy in LAZY.get(method, ()):
            getattr(record, lazy)


def best_seconds(routines: list[Callable[[], object]]) -> list[float]:
    """The fastest run of each routine; taking turns, all of them see the same load of the machine."""
    best = [float("inf")] * len(routines)
    for _ in range(REPEATS):
        for index, routine in enumerate(routines):
            start = time.perf_counter()
            routine()
            best[index] = min(best[index], time.perf_counter() - start)
    return best


def speed_table() -> None:
    """Seconds of ours and of the plain routines, and their ratio."""
    print(f"{'method':15}{'shape':>11}{'ours':>9}   plain routines: seconds (ours / plain)")
    for method, plain in PLAIN.items():
        for shape in SHAPES:
            matrix = torch.from_numpy(np.random.default_rng(0).standard_normal(shape))
            routines = [partial(routine, matrix.numpy()) for routine in plain.values()]
            ours, *others = best_seconds([partial(factorise, matrix, method), *routines])
            compared = "   ".join(
                f"{name} {seconds:.3f} ({ours / seconds:.2f})"
                for name, seconds in zip(plain, others, strict=True)
                if seconds > 1e-4
            )
            print(f"{method:15}{shape[0]:>6}x{shape[1]:<4}{ours:9.3f}   {compared}")


def model_table() -> None:
    """Seconds for all matrices of the paper's model: 12 layers, 10 heads of 64, 768 dims, MLP 3,072."""
    params = load_params(PAPER)
    rng = np.random.default_rng(0)
    matrices = {
        name: torch.from_numpy(rng.standard_normal(layer.weight.shape))
        for name, layer in factorisable(build(spec_of(params))).items()
    }
    title = f"seconds for {len(matrices)} matrices, {torch.get_num_threads()} threads"
    print(f"\n{'method':20}{title:>40}")
    total = 0.0
    for method in sorted(PLAIN, key=lambda method: method not in params.methods):
        start = time.perf_counter()
        decompose_all(matrices, method)
        seconds = time.perf_counter() - start
        print(f"{method:20}{seconds:40.1f}", flush=True)
        total += seconds if method in params.methods else 0.0
    print(f"{'all of paper.yaml':20}{total:40.1f}")


def error_table() -> None:
    """Truncation error at half the rank by the Eckart-Young optimum, on three matrices."""
    rng = np.random.default_rng(0)
    flat = rng.standard_normal((768, 768))
    U, _, V = np.linalg.svd(flat)
    decaying = (U / np.arange(1, 769)) @ V
    symmetric = flat + flat.T
    spectra = {"gaussian": flat, "1/i": decaying, "symmetric": symmetric}
    print(f"\n{'error at rank 384 / optimum':28}" + "".join(f"{name:>12}" for name in spectra))
    for method in METHODS:
        ratios = [error_ratio(torch.from_numpy(matrix), method) for matrix in spectra.values()]
        print(f"{method:28}" + "".join(f"{ratio:12.4f}" for ratio in ratios))


def error_ratio(matrix: Tensor, method: str) -> float:
    """NaN where the method refuses."""
    rank = min(matrix.shape) // 2
    optimum = np.linalg.norm(np.linalg.svd(matrix.numpy(), compute_uv=False)[rank:])
    try:
        left, right = decompose(matrix, method).truncate(rank)
    except NotDecomposable:
        return float("nan")
    return float((matrix - left @ right).norm()) / float(optimum)


def main() -> None:
    print(machine())
    speed_table()
    model_table()
    error_table()


if __name__ == "__main__":
    run_stage(main)
