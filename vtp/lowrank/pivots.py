"""The pivot form of a product of two factors: some of its own rows, and a mix of them that makes the others.

Every matrix of rank r has r rows of which the others are combinations, with coefficients of at most one in size
where those rows span the largest volume (Goreinov, Tyrtyshnikov & Zamarashkin, Linear Algebra Appl. 261, 1997).
"""

import scipy.linalg
import torch
from torch import Tensor

LARGEST = 2.0
"""Of a coefficient. Each swap that is needed for it makes the volume so many times larger, so there are few."""


def pivot_form(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the pivot rows (r, n) of left·right, the mix (m - r, r) for the others, and the order of all (m).

    Row i of the product is row `order[i]` (int32) of the pivots and, after them, of what the mix makes of them. No
    coefficient of the mix is above `LARGEST` in size.

    Pivoted QR chooses rows, which are then swapped for others until that holds (Gu & Eisenstat, SIAM J. Sci.
    Comput. 17, 1996). An orthonormal basis of the product's columns stands for it: it has the same coefficients,
    and is well conditioned whatever the factors are.

    Args:
        left, right: (m, r) and (r, n) in float64, r at most m.
    """
    basis, _ = torch.linalg.qr(left)
    rank = basis.shape[1]
    _, _, order = scipy.linalg.qr(basis.T.numpy(), mode="economic", pivoting=True)
    rows = torch.from_numpy(order).long()
    mix = _mix(basis, rows, rank)
    while mix.numel() and mix.abs().max() > LARGEST:
        row, pivot = divmod(int(mix.abs().argmax()), rank)
        rows[[pivot, rank + row]] = rows[[rank + row, pivot]]
        mix = _mix(basis, rows, rank)
    return left[rows[:rank]] @ right, mix, rows.argsort().to(torch.int32)


def _mix(basis: Tensor, rows: Tensor, rank: int) -> Tensor:
    """Return the coefficients (m - r, r) of the rows of `basis` behind the first r of `rows`, by those."""
    mix: Tensor = torch.linalg.solve(basis[rows[:rank]], basis[rows[rank:]], left=False)
    return mix
