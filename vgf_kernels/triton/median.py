"""Order statistics by counting: exact, without a sort, on tiles of any layout."""

from __future__ import annotations

import triton
import triton.language as tl

ABSENT = tl.constexpr(0x7FFFFFFF)  # greater than the bits of every number: NaN, and what is not there


@triton.jit
def ordered_bits(d2, exists):
    """The bits of floats >= 0 as integers, which order as the floats do; NaN and what does not exist come last."""
    bits = d2.to(tl.int32, bitcast=True)
    return tl.where(exists & (d2 == d2), bits, ABSENT)  # noqa: PLR0124


@triton.jit
def count(flags):
    """How many are set, by group. [G, P, P] -> [G]."""
    return tl.sum(tl.sum(flags.to(tl.int32), axis=2), axis=1)


@triton.jit
def select_rank(keys, rank, BITS: tl.constexpr):
    """The key of this rank (from 0) by group, for keys in [0, 2^BITS) or ABSENT. keys [G, P, P], rank [G] -> [G].

    From the highest bit down: the greatest number with at most `rank` keys below it.
    """
    found = tl.zeros_like(rank)
    for i in range(BITS):
        candidate = found | (1 << (BITS - 1 - i))
        below = count(keys < candidate[:, None, None])
        found = tl.where(below <= rank, candidate, found)
    return found


@triton.jit
def middle_pair(keys, total):
    """The lower and the upper of the two middle keys of `total` a group (equal for an odd total). [G], [G]."""
    rank = tl.zeros_like(tl.max(tl.max(keys, axis=2), axis=1)) + (total - 1) // 2
    lower = select_rank(keys, rank, 31)
    up_to = count(keys <= lower[:, None, None])
    above = tl.where(keys > lower[:, None, None], keys, ABSENT)
    following = tl.min(tl.min(above, axis=2), axis=1)
    return lower, tl.where(up_to > total // 2, lower, following)


# ---- over several launches, for groups whose keys are too many to hold: four digits of 8, 8, 8 and 7 bits

DIGITS = tl.constexpr(4)


@triton.jit
def digit_shift(digit):
    """The lowest bit of a digit."""
    return tl.where(digit < 3, 23 - 8 * digit, 0)


@triton.jit
def narrow(counts, stride, digits, total):
    """What the counts of the first `digits` digits tell of the lower middle key of `total`.

    counts: pointer to [DIGITS, ..., 256] int64, digits `stride` apart. Returns the key as far as known (lower bits
    zero), its rank among the keys that begin so, and, after the last digit, how many keys are equal to it.
    """
    rank = (total - 1) // 2
    found = (rank * 0).to(tl.int32)
    equal = rank * 0
    values = tl.arange(0, 256)
    for digit in range(digits):
        histogram = tl.load(counts + digit * stride + values)
        up_to = tl.cumsum(histogram, 0)
        value = tl.sum((up_to <= rank).to(tl.int32), axis=0)
        rank -= tl.sum(tl.where(values < value, histogram, 0), axis=0)
        equal = tl.sum(tl.where(values == value, histogram, 0), axis=0)
        found |= value << digit_shift(digit)
    return found, rank, equal
