"""The particle interaction of SVGD: distances, bandwidth, and the direction phi."""

from __future__ import annotations

import math

import numpy as np

from ..config import FlowConfig


def squared_distances(x: np.ndarray) -> np.ndarray:
    """d2_ij = |x_i - x_j|^2 of a state's particles. x [B, N, A] -> [B, N, N].

    Summed over differences: |x|^2 + |y|^2 - 2 x.y, the same in exact arithmetic, loses all digits of a small distance,
    and with few particles the kernel is narrow enough to tell.
    """
    d2 = np.zeros((*x.shape[:2], x.shape[1]), x.dtype)
    for a in range(x.shape[2]):
        d2 += np.square(x[:, :, None, a] - x[:, None, :, a])
    return d2


def kernel_scale(d2: np.ndarray, bandwidth: str | float) -> np.ndarray:
    """gamma = 1 / (1e-6 + 2 sigma^2) of every state. d2 [B, N, N] -> [B]."""
    count, n = d2.shape[:2]
    if bandwidth == "median":
        sigma2 = np.maximum(np.median(d2.reshape(count, -1), axis=1) / (2 * math.log(n + 1)), 1e-12)
    else:
        sigma2 = np.full(count, float(bandwidth) ** 2)
    return (1 / (1e-6 + 2 * sigma2)).astype(d2.dtype)


def direction_from_gradient(x: np.ndarray, dq: np.ndarray, config: FlowConfig) -> np.ndarray:
    """phi_i = (1/N) [ (1/alpha) sum_j k_ij dq_j + r_i ]. x, dq [B, N, A] -> phi [B, N, A].

    r_i = 2 gamma sum_j k_ij (x_i - x_j); without a kernel phi = dq / (alpha N). After arXiv 2604.14265 and SVGD
    (arXiv 1608.04471).
    """
    n = x.shape[1]
    if config.kernel is None:
        return dq / (config.alpha * n)
    d2 = squared_distances(x)
    gamma = kernel_scale(d2, config.bandwidth)[:, None, None]
    k = np.exp(-gamma * d2)
    # over differences, as the distances: sum_j k_ij x_i - sum_j k_ij x_j is round-off where particles nearly coincide
    apart = [np.sum(k * (x[:, :, None, a] - x[:, None, :, a]), axis=2) for a in range(x.shape[2])]
    repulsion = 2 * gamma * np.stack(apart, axis=-1)
    if config.bandwidth_grad:
        repulsion = repulsion + median_repulsion(x, d2, k, gamma)
    return (k @ dq / config.alpha + repulsion) / n


def median_repulsion(x, d2, k, gamma) -> np.ndarray:
    """What differentiating through the median adds to r: minus d/dx of sum_ij k_ij through h. [B, N, A].

    The middle entry of a stable ascending sort of the row-major [N, N] matrix (or the two middle entries,
    half each) carries the derivative of the median; only its row particle receives it.
    """
    count, n = d2.shape[:2]
    flat = d2.reshape(count, -1)
    order = np.argsort(flat, axis=1, kind="stable")
    middle = sorted({(n * n - 1) // 2, n * n // 2})
    scale = 2 * math.log(n + 1)
    above_floor = np.median(flat, axis=1) / scale > 1e-12
    # d/dh sum_ij exp(-gamma d2_ij), with d gamma / d h = -2 gamma^2
    dsum = 2 * gamma[:, 0, 0] ** 2 * np.sum(d2 * k, axis=(1, 2)) * above_floor
    extra = np.zeros_like(x)
    states = np.arange(count)
    for entry in middle:
        row, column = np.divmod(order[:, entry], n)
        dmedian = 2 * (x[states, row] - x[states, column]) / len(middle)
        extra[states, row] -= dsum[:, None] / scale * dmedian
    return extra
