"""Large states: the direction phi and, with UPDATE, the optimizer step and the clip.

7 A N^2 FLOPs a state, 2 A N^2 of them in the product k @ dq; its particles and their gradients are read once for
every BLOCK rows, from the cache.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .large import block_distances, block_of, difference, gamma_of_state, middle_keys
from .median import ordered_bits
from .optimizer import clip, step

RUNTIME = ["B", "N", "A", "rate", "alpha", "sigma", "low", "high", "correction_1", "correction_2"]
ARRAYS = ["particles", "dq", "first_moment", "second_moment", "out"]


@triton.jit(do_not_specialize=RUNTIME, do_not_specialize_on_alignment=ARRAYS)
def large_step(
    particles,  # [B, N, A], as are dq, the moments and out
    dq,
    first_moment,  # this and the next only with UPDATE
    second_moment,
    out,  # the moved particles with UPDATE, else phi
    counts,  # [4, B, 256] int64, this and the next only with MEDIAN
    following,  # [B] int32
    equals,  # [2, B, N] int32, this and the next only with BANDWIDTH_GRAD
    spread,  # [B, N]
    B,
    N,
    A,
    rate,
    alpha,
    sigma,
    low,
    high,
    correction_1,
    correction_2,
    MEDIAN: tl.constexpr,
    BANDWIDTH_GRAD: tl.constexpr,
    UPDATE: tl.constexpr,
    OPTIMIZER: tl.constexpr,
    CLIP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program a block of particles of a state. correction_i = 1 - beta_i^step."""
    state, i = block_of(tl.program_id(0), N, BLOCK)
    start = state.to(tl.int64) * N
    x = particles + start * A
    gamma, above_floor = gamma_of_state(counts, following, state, B, N, sigma, MEDIAN)
    for c in range(0, A, 16):
        columns = c + tl.arange(0, 16)
        given_i = (i < N)[:, None] & (columns < A)[None, :]
        drive, repulsion = tl.zeros([BLOCK, 16], tl.float32), tl.zeros([BLOCK, 16], tl.float32)
        for first in range(0, N, BLOCK):
            j = first + tl.arange(0, BLOCK)
            given_j = (j < N)[:, None] & (columns < A)[None, :]
            d2, exists = block_distances(x, i, j, N, A)
            k = tl.where(exists, tl.exp(-gamma * d2), 0.0)
            at_j = j[:, None] * A + columns[None, :]
            dq_j = tl.load(dq + start * A + at_j, mask=given_j, other=0.0)
            drive = tl.dot(k, dq_j, drive, input_precision="ieee")
            for a in range(c, tl.minimum(c + 16, A)):  # by differences, exact for particles in one place
                gap = difference(x + a, i, j, N, A)
                repulsion += tl.where((columns == a)[None, :], tl.sum(k * gap, axis=1)[:, None], 0.0)
        at_i = i[:, None] * A + columns[None, :]
        x_i = tl.load(x + at_i, mask=given_i, other=0.0)
        repulsion = 2 * gamma * repulsion
        if BANDWIDTH_GRAD:
            lower, upper, rank, upper_rank = middle_keys(counts, following, state, B, N)
            pull = _median_slope(spread + start, gamma, above_floor, N, BLOCK)
            row_1, column_1 = _place(x, equals + start, lower, rank, N, A, BLOCK)
            row_2, column_2 = _place(x, equals + (B.to(tl.int64) * N + start), upper, upper_rank, N, A, BLOCK)
            repulsion -= _pull(x, row_1, column_1, i, columns, pull, A)
            repulsion -= _pull(x, row_2, column_2, i, columns, pull, A)
        phi = (drive / alpha + repulsion) / N
        at = start * A + at_i
        if UPDATE:
            m = tl.load(first_moment + at, mask=given_i)
            v = tl.load(second_moment + at, mask=given_i)
            tl.debug_barrier()
            moved, m, v = step(x_i, phi, m, v, correction_1, correction_2, rate, OPTIMIZER)
            if CLIP:
                moved = clip(moved, low, high)
            tl.store(out + at, moved, mask=given_i)
            tl.store(first_moment + at, m, mask=given_i)
            tl.store(second_moment + at, v, mask=given_i)
        else:
            tl.store(out + at, phi, mask=given_i)


@triton.jit
def _median_slope(spread, gamma, above_floor, N, BLOCK: tl.constexpr):
    """d/dh of sum_ij k_ij over the 2 ln(N + 1) between h and the median, zero at the floor."""
    total = tl.zeros([BLOCK], tl.float32)
    for first in range(0, N, BLOCK):
        rows = first + tl.arange(0, BLOCK)
        total += tl.load(spread + rows, mask=rows < N, other=0.0)
    slope = 2 * gamma * gamma * tl.sum(total, axis=0) / (2 * tl.log(N + 1.0))
    return tl.where(above_floor, slope, 0.0)


@triton.jit
def _place(x, equals, key, rank, N, A, BLOCK: tl.constexpr):
    """Row and column of the entry of this rank among those equal to key, in row-major order."""
    row, before, in_rows_before = rank * 0, rank * 0, rank * 0
    for first in range(0, N, BLOCK):
        rows = first + tl.arange(0, BLOCK)
        of_row = tl.load(equals + rows, mask=rows < N, other=0)
        passed = before + tl.cumsum(of_row, 0) <= rank
        row += tl.sum(passed.to(tl.int32), axis=0)
        in_rows_before += tl.sum(tl.where(passed, of_row, 0), axis=0)
        before += tl.sum(of_row, axis=0)
    rank -= in_rows_before
    column, before = rank * 0, rank * 0
    for first in range(0, N, BLOCK):
        d2, exists = block_distances(x, row + tl.arange(0, 1), first + tl.arange(0, BLOCK), N, A)
        equal = tl.sum((ordered_bits(d2, exists) == key).to(tl.int32), axis=0)
        passed = before + tl.cumsum(equal, 0) <= rank
        column += tl.sum(passed.to(tl.int32), axis=0)
        before += tl.sum(equal, axis=0)
    return tl.minimum(row, N - 1), tl.minimum(column, N - 1)  # where all is NaN, there is none


@triton.jit
def _pull(x, row, column, i, columns, pull, A):
    """pull (x_row - x_column) at particle `row`, zero elsewhere. [len(i), 16]."""
    given = columns < A
    x_row = tl.load(x + row * A + columns, mask=given, other=0.0)
    x_column = tl.load(x + column * A + columns, mask=given, other=0.0)
    return tl.where((i == row)[:, None], (pull * (x_row - x_column))[None, :], 0.0)
