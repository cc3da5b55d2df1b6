"""Balanced factors: the same product with both sides equally large."""

import torch
from torch import Tensor

from vtp.decompositions.base import column_signs
from vtp.numerics import sqrt


def balance(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Factors m×r and r×n of the same product A = left·right, in the form (U√Σ, √ΣV) of its SVD A = UΣV.

    Gradients on both sides then have one scale and the r terms are mutually orthogonal, whichever method
    gave the factors. They must be float64 with r ≤ min(m, n); the product is kept to rounding in
    ‖left‖‖right‖. Costs O((m + n)r²), by the SVD of the r×r core between the QR decompositions of both sides.
    """
    Q_left, R_left = torch.linalg.qr(left)
    Q_right, R_right = torch.linalg.qr(right.T)
    U, Sigma, V = torch.linalg.svd(R_left @ R_right.T)
    scale = sqrt(Sigma)
    balanced = Q_left @ (U * scale)
    signs = torch.from_numpy(column_signs(balanced.numpy()))
    return balanced * signs, (signs * scale)[:, None] * (V @ Q_right.T)
