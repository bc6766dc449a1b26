"""Median of large states, one digit: how many of the keys that begin as the median does have each value of it.

Four launches, one a digit, find the lower of the two middle distances exactly. 3 A N^2 FLOPs a state and launch; its
particles are read once for every BLOCK rows, from the cache.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .large import block_distances, block_of, counts_of, digit_stride, entries
from .median import digit_shift, narrow, ordered_bits


@triton.jit(do_not_specialize=["digit", "B", "N", "A"], do_not_specialize_on_alignment=["particles"])
def large_counts(
    particles,  # [B, N, A]
    counts,  # [4, B, 256] int64, zero where not counted yet
    following,  # [B] int32, ABSENT; becomes -1 where a distance is NaN
    digit,
    B,
    N,
    A,
    BLOCK: tl.constexpr,
):
    """One program a block of rows of a state's distances."""
    state, i = block_of(tl.program_id(0), N, BLOCK)
    x = particles + state.to(tl.int64) * N * A
    found, _, _ = narrow(counts_of(counts, state), digit_stride(B), digit, entries(N))
    shift = digit_shift(digit)
    above = tl.where(digit < 3, shift + 8, 7)
    if digit == 0:
        zero = tl.zeros([BLOCK], tl.float32)
        for a in range(A):  # NaN where a particle is not finite: a distance is NaN then
            x_i = tl.load(x + i * A + a, mask=i < N, other=0.0)
            zero += x_i - x_i
        tl.atomic_min(following + state, -1, mask=tl.sum(zero, axis=0) != 0)
    values = tl.arange(0, 256)
    histogram = tl.zeros([256], tl.int32)
    for first in range(0, N, BLOCK):
        d2, exists = block_distances(x, i, first + tl.arange(0, BLOCK), N, A)
        keys = ordered_bits(d2, exists)
        counted = exists & (((keys ^ found) >> above) == 0)
        value = (keys >> shift) & (tl.where(digit < 3, 0xFF, 0x7F))
        flat = tl.reshape(value, [BLOCK * BLOCK])
        histogram += tl.histogram(flat, 256, mask=tl.reshape(counted, [BLOCK * BLOCK]))
    at = counts_of(counts, state) + digit * digit_stride(B) + values
    tl.atomic_add(at, histogram.to(tl.int64), mask=histogram > 0)
