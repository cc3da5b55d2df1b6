"""Which functions of the libraries give the same bytes on another CPU: run on both and compare the lines.

    python -m benchmarks.same_bytes > here.txt

Each line has a function, its dtype and a checksum of what it gives for the same numbers, under the variables that
params.yaml asks for. The last line says how many square roots are not those of IEEE 754.
"""

import hashlib
from collections.abc import Callable, Mapping

import numpy as np
import scipy.linalg
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.nn import functional as F

from vtp.numerics import sqrt

SIDE = 200
Array = NDArray[np.float64]

ENTRIES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "reciprocal": torch.reciprocal,
    "exp": torch.exp,
    "expm1": torch.expm1,
    "log": torch.log,
    "log1p": torch.log1p,
    "log2": torch.log2,
    "tanh": torch.tanh,
    "erf": torch.erf,
    "sin": torch.sin,
    "cos": torch.cos,
    "sigmoid": torch.sigmoid,
    "vtp.numerics.sqrt": sqrt,
    "x ** 0.5": lambda x: x**0.5,
    "x ** -0.5": lambda x: x**-0.5,
    "x ** 1.7": lambda x: x**1.7,
    "x ** 3": lambda x: x**3,
    "gelu": F.gelu,
    "gelu, tanh": lambda x: F.gelu(x, approximate="tanh"),
}
ROWS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "norm": lambda x: x.norm(dim=1),
    "std": lambda x: x.std(dim=1),
    "var": torch.var,
    "sum": torch.sum,
    "cumsum": lambda x: x.cumsum(1),
    "softmax": lambda x: x.softmax(1),
    "log_softmax": lambda x: x.log_softmax(1),
    "logsumexp": lambda x: x.logsumexp(1),
    "layer_norm": lambda x: F.layer_norm(x, x.shape[1:]),
}
MATRICES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "matrix @ matrix": lambda x: x @ x.T,
    "matrix @ vector": lambda x: x @ x[0],
    "svd": lambda x: torch.linalg.svd(x)[1],
    "eigh": lambda x: torch.linalg.eigh(x @ x.T)[0],
    "qr": lambda x: torch.linalg.qr(x)[1],
    "cholesky": lambda x: torch.linalg.cholesky(x @ x.T),
    "solve": lambda x: torch.linalg.solve(x, x[:, 0]),
    "solve_triangular": lambda x: torch.linalg.solve_triangular(
        x.triu() + SIDE * torch.eye(SIDE).to(x), x, upper=True
    ),
}
OTHERS: Mapping[str, Callable[[Array], Array]] = {
    "numpy.sqrt": np.sqrt,
    "numpy.exp": np.exp,
    "numpy.log": np.log,
    "numpy.log2": np.log2,
    "numpy, x ** 1.7": lambda x: x**1.7,
    "numpy, matrix @ matrix": lambda x: x @ x.T,
    "numpy.linalg.svd": lambda x: np.linalg.svd(x)[1],
    "numpy.linalg.eigh": lambda x: np.linalg.eigh(x @ x.T)[0],
    "scipy.linalg.qr": lambda x: scipy.linalg.qr(x)[1],
    "scipy.linalg.qr, pivoting": lambda x: scipy.linalg.qr(x, pivoting=True)[1],
    "scipy.linalg.lu": lambda x: scipy.linalg.lu(x)[1],
    "scipy.linalg.cholesky": lambda x: scipy.linalg.cholesky(x @ x.T),
}


def main() -> None:
    """Print the lines; all in one thread, as sums that are split otherwise round otherwise."""
    torch.set_num_threads(1)
    with threadpool_limits(1):
        print_checksums()


def print_checksums() -> None:
    """Print a line for each function and dtype, and the last one."""
    numbers = np.random.default_rng(0).random((SIDE, SIDE)) * 10 + 1e-6
    for dtype in (torch.float32, torch.float64):
        x = torch.from_numpy(numbers).to(dtype)
        for name, function in {**ENTRIES, **ROWS, **MATRICES}.items():
            print(f"{name}, {str(dtype).removeprefix('torch.')}: {checksum(function(x).numpy())}")
    for name, other in OTHERS.items():
        print(f"{name}: {checksum(other(numbers))}")
    many = np.random.default_rng(1).random(1_000_000, dtype=np.float32)
    off = int((torch.from_numpy(many).sqrt().numpy() != np.sqrt(many)).sum())
    print(f"torch.sqrt, float32: {off} of {len(many)} are not correctly rounded")


def checksum(values: NDArray[np.floating]) -> str:
    """Return ten digits of the checksum of the bytes."""
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()[:10]


if __name__ == "__main__":
    main()
