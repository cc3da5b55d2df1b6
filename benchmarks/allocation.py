"""Ranks of many layers under one budget: how long the knapsack takes, and how far its error is from the bound.

    python -m benchmarks.allocation

The layers are those of the paper's model, 12 blocks of six matrices, with spectra that are made up: falling by a
power of the rank or exponentially, in order, as the SVD gives them (convex errors, but for the last step from the
largest rank that saves anything to the dense layer), or out of order, as LU gives them, or like noise.
"""

import time

import numpy as np

from benchmarks.timing import machine
from vtp.knapsack import Floats, Table, relaxation, solve
from vtp.report import markdown_table

BLOCKS = 12
SHAPES = ((640, 768), (640, 768), (640, 768), (768, 640), (3072, 768), (768, 3072))
SPECTRA = ("power", "exponential", "out of order", "noise")
CHOICES = (300, 768)
KEEPS = (0.3, 0.5, 0.7, 0.9)


def spectrum(kind: str, size: int, rng: np.random.Generator) -> Floats:
    """Return made-up singular values, or what stands for them in a method that does not order its terms."""
    rank = np.arange(1.0, size + 1)
    if kind == "power":
        return rank ** -rng.uniform(0.3, 1.2)
    if kind == "exponential":
        return np.exp(-rng.uniform(0.002, 0.02) * rank)
    noise = rng.exponential(size=size)
    return noise if kind == "noise" else noise * np.exp(-rng.uniform(0.002, 0.02) * rank)


def tables(kind: str, choices: int, rng: np.random.Generator) -> list[Table]:
    """Return of each layer up to so many ranks that save parameters, and the dense layer."""
    found = []
    for m, n in SHAPES * BLOCKS:
        squares = spectrum(kind, min(m, n), rng) ** 2 * 10 ** rng.uniform(-1.5, 1.5)
        errors = (squares.sum() - np.cumsum(squares)).clip(0)
        costs = (m + n) * np.arange(1.0, len(squares) + 1)
        saving = np.flatnonzero(costs < m * n)[:choices]
        found.append(Table(np.append(costs[saving], m * n), np.append(errors[saving], 0.0)))
    return found


def rows() -> list[tuple[str, ...]]:
    """Return a row for each kind of spectrum, number of choices and budget."""
    found: list[tuple[str, ...]] = []
    for choices in CHOICES:
        for kind in SPECTRA:
            layers = tables(kind, choices, np.random.default_rng(0))
            total = sum(len(layer.costs) for layer in layers)
            relaxed = relaxation(layers)
            for keep in KEEPS:
                budget = keep * sum(layer.costs.max() for layer in layers)
                start = time.perf_counter()
                chosen = solve(layers, budget)
                seconds = time.perf_counter() - start
                error = sum(layer.errors[index] for layer, index in zip(layers, chosen, strict=True))
                above = error / np.interp(budget, *relaxed) - 1
                found.append((kind, str(len(layers)), f"{total:,}", f"{keep:g}", f"{seconds:.2f}", f"{above:.1e}"))
    return found


def main() -> None:
    """Print the table."""
    print(machine())
    print("error above the bound: of the choice, relative to the linear relaxation, which no choice may reach\n")
    header = ("spectra", "layers", "choices", "keep", "seconds", "error above the bound")
    print(markdown_table(header, rows()), end="")


if __name__ == "__main__":
    main()
