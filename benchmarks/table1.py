"""Table 1 of the paper, measured: normal equations, QR and SVD compared for accuracy and speed.

(a) as least-squares solvers over condition numbers 1e0 to 1e14;
(b) as ways to factorise the layers of the dense model that `dvc repro` has trained.

    python -m benchmarks.table1
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.timing import machine
from stages.paths import DATASET, PARAMS, model_path
from stages.shared import run_stage
from vtp.calibration.moments import moments
from vtp.calibration.watching import calibration_images
from vtp.checkpoint import load
from vtp.data.dataset import load_dataset
from vtp.decompositions import decompose
from vtp.lowrank import factorise
from vtp.measure import accuracy
from vtp.models import factorisable
from vtp.params import load_params
from vtp.report import markdown_table, percent

Array = NDArray[np.float64]

ROWS, COLUMNS = 768, 192
TRIALS = 10
CONDITION_NUMBERS = [10.0**exponent for exponent in range(0, 15, 2)]


@dataclass(frozen=True)
class Measurement:
    """Relative forward errors and seconds of one solver at one condition number, one entry a trial."""

    errors: list[float]
    seconds: list[float]


def by_normal_equations(A: Array, b: Array) -> Array:
    """AᵀA x = Aᵀb by Cholesky; by an LU solve where rounding has made AᵀA indefinite."""
    gram, right = A.T @ A, A.T @ b
    solution: Array
    try:
        solution = scipy.linalg.cho_solve(scipy.linalg.cho_factor(gram), right)
    except np.linalg.LinAlgError:
        solution = scipy.linalg.lu_solve(scipy.linalg.lu_factor(gram), right)
    return solution


def by_qr(A: Array, b: Array) -> Array:
    """R x = Qᵀb."""
    Q, R = scipy.linalg.qr(A, mode="economic")
    solution: Array = scipy.linalg.solve_triangular(R, Q.T @ b)
    return solution


def by_svd(A: Array, b: Array) -> Array:
    """x = V Σ⁻¹ Uᵀb."""
    U, Sigma, V = scipy.linalg.svd(A, full_matrices=False)
    solution: Array = V.T @ ((U.T @ b) / Sigma)
    return solution


SOLVERS: dict[str, Callable[[Array, Array], Array]] = {
    "normal equations": by_normal_equations,
    "QR": by_qr,
    "SVD": by_svd,
}


def least_squares_problem(condition_number: float, seed: int) -> tuple[Array, Array, Array]:
    """A of that condition number, b = A x, and x: with no residual, a stable solver loses κ and not κ²."""
    rng = np.random.default_rng(seed)
    U = np.linalg.qr(rng.standard_normal((ROWS, COLUMNS)))[0]
    V = np.linalg.qr(rng.standard_normal((COLUMNS, COLUMNS)))[0]
    A = (U * np.geomspace(1.0, 1.0 / condition_number, COLUMNS)) @ V.T
    x = rng.standard_normal(COLUMNS)
    return A, A @ x, x


def measure(solver: Callable[[Array, Array], Array], condition_number: float) -> Measurement:
    errors, seconds = [], []
    for seed in range(TRIALS):
        A, b, x = least_squares_problem(condition_number, seed)
        start = time.perf_counter()
        solution = solver(A, b)
        seconds.append(time.perf_counter() - start)
        errors.append(float(np.linalg.norm(solution - x) / np.linalg.norm(x)))
    return Measurement(errors, seconds)


def least_squares_table() -> None:
    """Part (a). Errors range over powers of ten, so that their mean and spread are geometric."""
    print(f"(a) least squares, {ROWS}x{COLUMNS}, n = {TRIALS} matrices a condition number")
    print(f"{'condition':>9}  " + "  ".join(f"{name:^34}" for name in SOLVERS))
    for condition_number in CONDITION_NUMBERS:
        cells = [summary(measure(solver, condition_number)) for solver in SOLVERS.values()]
        print(f"{condition_number:9.0e}  " + "  ".join(f"{cell:^34}" for cell in cells))
    print("relative error: geometric mean ×/÷ standard deviation; time: mean ± standard deviation")


def summary(measurement: Measurement) -> str:
    logs = np.log(measurement.errors)
    milliseconds = np.multiply(measurement.seconds, 1e3)
    error = f"{np.exp(logs.mean()):.1e} ×/÷ {np.exp(logs.std(ddof=1)):.1f}"
    return f"{error} · {milliseconds.mean():.1f} ± {milliseconds.std(ddof=1):.1f} ms"


def factorisation_table() -> None:
    """Part (b). Normal equations are `cholesky`; QR is `qr_reduced`, as printed, and `qr_pivoted`."""
    params = load_params(PARAMS)
    model, dataset = load(model_path("baseline")), load_dataset(DATASET)
    images = calibration_images(dataset.train.images, params.calibrate.images, params.seed)
    flows = moments(model, images, params.seed)
    matrices = [layer.weight.detach().flatten(1) for layer in factorisable(model).values()]
    rows = []
    for method in ("cholesky", "qr_reduced", "qr_pivoted", "svd"):
        milliseconds = 1e3 * np.array([decomposition_seconds(matrices, method) for _ in range(TRIALS)])
        chosen = replace(params.decompose, metric="weight", allocation="uniform")
        factorised, units = factorise(model, method, chosen, flows)
        errors = np.array([unit.weight_error for unit in units])
        rows.append(
            (
                method,
                f"{errors.mean():.4f} ± {errors.std(ddof=1):.4f}",
                percent(accuracy(factorised, dataset.validation)),
                f"{milliseconds.mean():.1f} ± {milliseconds.std(ddof=1):.1f}",
            )
        )
    print(f"(b) the {len(matrices)} layers of the dense model of params.yaml at keep {params.decompose.keep:g}")
    print(f"    dense validation accuracy {percent(accuracy(model, dataset.validation))} %; times n = {TRIALS}\n")
    header = ("method", "relative weight error, mean ± sd over layers", "accuracy %", "ms for all layers")
    print(markdown_table(header, rows), end="")


def decomposition_seconds(matrices: list[Tensor], method: str) -> float:
    start = time.perf_counter()
    for matrix in matrices:
        _ = decompose(matrix, method).factors  # which some records form when they are asked for
    return time.perf_counter() - start


def main() -> None:
    print(machine())
    least_squares_table()
    print()
    factorisation_table()


if __name__ == "__main__":
    run_stage(main)
