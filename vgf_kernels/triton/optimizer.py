"""One optimizer step on a tile of particles, and the clip. Adam after arXiv 1412.6980, algorithm 1."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def step(x, phi, first, second, correction_1, correction_2, rate, OPTIMIZER: tl.constexpr):
    """x moved along phi, and the new moments. correction_i = 1 - beta_i^step."""
    gradient = -phi
    if OPTIMIZER == "adam":
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient * gradient
        gradient = first / correction_1 / (tl.sqrt_rn(second / correction_2) + 1e-8)
    return x - rate * gradient, first, second


@triton.jit
def clip(x, low, high):
    """x within [low, high]; NaN stays."""
    return tl.where(x < low, low, tl.where(x > high, high, x))
