"""Median of large states: the smallest key above the lower of the two middle ones. Cost as one of large_counts.py."""

from __future__ import annotations

import triton
import triton.language as tl

from .large import block_distances, block_of, counts_of, digit_stride, entries
from .median import ABSENT, DIGITS, narrow, ordered_bits


@triton.jit(do_not_specialize=["B", "N", "A"], do_not_specialize_on_alignment=["particles"])
def large_next(
    particles,  # [B, N, A]
    counts,  # [4, B, 256] int64, complete
    following,  # [B] int32, ABSENT, or -1, which stays
    B,
    N,
    A,
    BLOCK: tl.constexpr,
):
    """One program a block of rows of a state's distances."""
    state, i = block_of(tl.program_id(0), N, BLOCK)
    x = particles + state.to(tl.int64) * N * A
    lower, _, _ = narrow(counts_of(counts, state), digit_stride(B), DIGITS, entries(N))
    smallest = tl.full([BLOCK], ABSENT, tl.int32)
    for first in range(0, N, BLOCK):
        d2, exists = block_distances(x, i, first + tl.arange(0, BLOCK), N, A)
        keys = ordered_bits(d2, exists)
        smallest = tl.minimum(smallest, tl.min(tl.where(keys > lower, keys, ABSENT), axis=1))
    tl.atomic_min(following + state, tl.min(smallest, axis=0))
