"""Large states, with the median's gradient: by row, equals of the middle keys and the sum of d2 k.

Cost as one launch of large_counts.py.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .large import block_distances, block_of, middle_keys
from .median import ordered_bits
from .pairwise import gamma_of_median


@triton.jit(do_not_specialize=["B", "N", "A"], do_not_specialize_on_alignment=["particles"])
def large_rows(
    particles,  # [B, N, A]
    counts,  # [4, B, 256] int64
    following,  # [B] int32
    equals,  # [2, B, N] int32: entries of a row equal to the lower and to the upper middle key
    spread,  # [B, N]: sum of d2 k over a row
    B,
    N,
    A,
    BLOCK: tl.constexpr,
):
    """One program a block of rows of a state's distances."""
    state, i = block_of(tl.program_id(0), N, BLOCK)
    x = particles + state.to(tl.int64) * N * A
    lower, upper, _, _ = middle_keys(counts, following, state, B, N)
    gamma, _ = gamma_of_median(lower, upper, N)
    equal_lower, equal_upper = tl.zeros([BLOCK], tl.int32), tl.zeros([BLOCK], tl.int32)
    total = tl.zeros([BLOCK], tl.float32)
    for first in range(0, N, BLOCK):
        d2, exists = block_distances(x, i, first + tl.arange(0, BLOCK), N, A)
        keys = ordered_bits(d2, exists)
        equal_lower += tl.sum((keys == lower).to(tl.int32), axis=1)
        equal_upper += tl.sum((keys == upper).to(tl.int32), axis=1)
        total += tl.sum(tl.where(exists, d2 * tl.exp(-gamma * d2), 0.0), axis=1)
    at = state.to(tl.int64) * N + i
    tl.store(equals + at, equal_lower, mask=i < N)
    tl.store(equals + B.to(tl.int64) * N + at, equal_upper, mask=i < N)
    tl.store(spread + at, total, mask=i < N)
