"""States with more particles than a tile holds: squared distances block by block, never as a matrix."""

from __future__ import annotations

import triton
import triton.language as tl

from .median import DIGITS, narrow
from .pairwise import gamma_of_median, gamma_of_sigma2


@triton.jit
def block_of(program, N, BLOCK: tl.constexpr):
    """The state and the particles [BLOCK] of a program; there is one for every block of every state."""
    blocks = tl.cdiv(N, BLOCK)
    return program // blocks, program % blocks * BLOCK + tl.arange(0, BLOCK)


@triton.jit
def entries(N):
    """How many distances a state has: more than an int32 counts, from 46,341 particles on."""
    return N.to(tl.int64) * N


@triton.jit
def counts_of(counts, state):
    """The counts of a state's first digit; those of the next one are `digit_stride` further."""
    return counts + state.to(tl.int64) * 256


@triton.jit
def digit_stride(B):
    """From one digit's counts of [4, B, 256] to the next one's."""
    return B.to(tl.int64) * 256


@triton.jit
def block_distances(x, i, j, N, A):
    """Squared distances of particles i and j of the state at x, [len(i), len(j)], and which of them exist."""
    exists = (i < N)[:, None] & (j < N)[None, :]
    d2 = exists.to(tl.float32) * 0
    for a in range(A):
        gap = difference(x + a, i, j, N, A)
        d2 += gap * gap
    return d2, exists


@triton.jit
def difference(x, i, j, N, A):
    """x_i - x_j of one action dimension, [len(i), len(j)]; x points to it in the state's first particle."""
    x_i = tl.load(x + i * A, mask=i < N, other=0.0)
    x_j = tl.load(x + j * A, mask=j < N, other=0.0)
    return x_i[:, None] - x_j[None, :]


@triton.jit
def middle_keys(counts, following, state, B, N):
    """The two middle keys of a state's N^2 distances, once they are counted; their ranks among equals."""
    total = entries(N)
    lower, rank, equal = narrow(counts_of(counts, state), digit_stride(B), DIGITS, total)
    upper_rank = rank + total // 2 - (total - 1) // 2
    upper = tl.where(upper_rank < equal, lower, tl.load(following + state))
    return lower, upper, rank, tl.where(upper_rank < equal, upper_rank, 0)


@triton.jit
def gamma_of_state(counts, following, state, B, N, sigma, MEDIAN: tl.constexpr):
    """gamma of a state, and whether its median is above the floor."""
    gamma = gamma_of_sigma2(sigma * sigma)
    above_floor = sigma < 0
    if MEDIAN:
        lower, upper, _, _ = middle_keys(counts, following, state, B, N)
        gamma, above_floor = gamma_of_median(lower, upper, N)
        gamma = tl.where(tl.load(following + state) < 0, float("nan"), gamma)
    return gamma, above_floor
