"""The particle interaction of SVGD within the states of a tile: distances, bandwidth and the direction phi.

phi_i = (1/N) [ (1/alpha) sum_j k_ij dq_j + 2 gamma sum_j k_ij (x_i - x_j) ], k = exp(-gamma d2), N small enough
for d2 [G, P, P] of G states to stay in registers (P: N rounded up to a power of two).

Cost of a group: 3 A N^2 FLOPs for d2, 31 counting passes over it for the median, 7 A N^2 for phi; its particles
are read from the cache twice.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .median import ABSENT, count, middle_pair, ordered_bits, select_rank


@triton.jit
def gamma_of_median(lower, upper, N):
    """(gamma, whether the median is above its floor) from the bits of the two middle squared distances."""
    median = 0.5 * (lower.to(tl.float32, bitcast=True) + upper.to(tl.float32, bitcast=True))
    h = median / (2 * tl.log(N + 1.0))
    return gamma_of_sigma2(tl.where(h < 1e-12, 1e-12, h)), h > 1e-12


@triton.jit
def gamma_of_sigma2(sigma2):
    """1 / (1e-6 + 2 sigma^2)."""
    return 1 / (1e-6 + 2 * sigma2)


@triton.jit
def direction_of_states(
    x,
    dq,
    phi,
    stride,
    states,
    N,
    A,
    alpha,
    sigma,
    G: tl.constexpr,
    P: tl.constexpr,
    MEDIAN: tl.constexpr,
    BANDWIDTH_GRAD: tl.constexpr,
):
    """phi [states * N, A] of a tile. x, dq and phi point to its first row, their rows are `stride` apart."""
    i, j = tl.arange(0, P), tl.arange(0, P)
    for first in range(0, states, G):
        group = first + tl.arange(0, G)
        row_i, row_j = group[:, None] * N + i[None, :], group[:, None] * N + j[None, :]
        here_i = (group < states)[:, None] & (i < N)[None, :]
        here_j = (group < states)[:, None] & (j < N)[None, :]
        here = here_i[:, :, None] & here_j[:, None, :]
        d2 = tl.zeros([G, P, P], tl.float32)
        for a in range(A):
            x_i = tl.load(x + row_i * stride + a, mask=here_i, other=0.0)
            x_j = tl.load(x + row_j * stride + a, mask=here_j, other=0.0)
            gap = x_i[:, :, None] - x_j[:, None, :]
            d2 += gap * gap
        gamma = tl.zeros([G], tl.float32) + gamma_of_sigma2(sigma * sigma)
        if MEDIAN:
            keys = ordered_bits(d2, here)
            lower, upper = middle_pair(keys, N * N)
            gamma, above_floor = gamma_of_median(lower, upper, N)
            for a in range(A):  # NaN where a particle is not finite: a distance is NaN then, and so is the median
                x_j = tl.load(x + row_j * stride + a, mask=here_j, other=0.0)
                gamma += tl.sum(x_j - x_j, axis=1)
        k = tl.where(here, tl.exp(-gamma[:, None, None] * d2), 0.0)
        if BANDWIDTH_GRAD:
            row_1, column_1 = _place(keys, lower, (N * N - 1) // 2, N, P)
            row_2, column_2 = _place(keys, upper, N * N // 2, N, P)
            spread = tl.sum(tl.sum(tl.where(here, d2 * k, 0.0), axis=2), axis=1)
            pull = tl.where(above_floor, 2 * gamma * gamma * spread / (2 * tl.log(N + 1.0)), 0.0)
        for a in range(A):
            x_i = tl.load(x + row_i * stride + a, mask=here_i, other=0.0)
            x_j = tl.load(x + row_j * stride + a, mask=here_j, other=0.0)
            dq_j = tl.load(dq + row_j * stride + a, mask=here_j, other=0.0)
            drive = tl.sum(k * dq_j[:, None, :], axis=2) / alpha
            repulsion = tl.sum(k * (x_i[:, :, None] - x_j[:, None, :]), axis=2) * (2 * gamma)[:, None]
            if BANDWIDTH_GRAD:
                # each of the two middle entries gives half of the median's derivative, 2 (x_row - x_column)
                repulsion -= _median_pull(x + a, group, row_1, column_1, i, pull, stride, states, N)
                repulsion -= _median_pull(x + a, group, row_2, column_2, i, pull, stride, states, N)
            tl.store(phi + row_i * stride + a, (drive + repulsion) / N, mask=here_i)


@triton.jit
def _place(keys, key, rank, N, P: tl.constexpr):
    """Row and column of the entry of this rank, and of value `key`, in a stable sort of the row-major entries."""
    i, j = tl.arange(0, P), tl.arange(0, P)
    position = i[None, :, None] * P + j[None, None, :]
    of_equals = rank - count(keys < key[:, None, None])
    place = select_rank(tl.where(keys == key[:, None, None], position, ABSENT), of_equals, 12)
    return tl.minimum(place // P, N - 1), tl.minimum(place % P, N - 1)  # where all is NaN, there is none


@triton.jit
def _median_pull(x, group, row, column, i, pull, stride, states, N):
    """pull (x_row - x_column) at particle `row` of each state, zero elsewhere. [G, P]."""
    here = group < states
    x_row = tl.load(x + (group * N + row) * stride, mask=here, other=0.0)
    x_column = tl.load(x + (group * N + column) * stride, mask=here, other=0.0)
    return tl.where(i[None, :] == row[:, None], (pull * (x_row - x_column))[:, None], 0.0)


@triton.jit
def tile_direction(scratch, tile, A, alpha, sigma, interaction: tl.constexpr, shape: tl.constexpr):
    """scratch.phi from scratch.x and scratch.dq, for a tile of whole states (any tile without a kernel)."""
    R: tl.constexpr = shape.rows
    AP: tl.constexpr = shape.actions
    if interaction.kernel:
        G: tl.constexpr = interaction.group
        P: tl.constexpr = interaction.particles
        MEDIAN: tl.constexpr = interaction.median
        BANDWIDTH_GRAD: tl.constexpr = interaction.bandwidth_grad
        direction_of_states(
            scratch.x,
            scratch.dq,
            scratch.phi,
            AP,
            tile.states,
            tile.N,
            A,
            alpha,
            sigma,
            G,
            P,
            MEDIAN,
            BANDWIDTH_GRAD,
        )
    else:
        rows, columns = tl.arange(0, R), tl.arange(0, 16)
        for c in range(0, AP, 16):
            at = rows[:, None] * AP + (c + columns)[None, :]
            tl.store(scratch.phi + at, tl.load(scratch.dq + at) / (alpha * tile.N))
    tl.debug_barrier()
