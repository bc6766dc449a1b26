"""What becomes of the values of a state's particles: one of them is picked, or they are reduced.

A program takes whole states and walks through the tiles of their particles.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .ensemble import member_value


@triton.jit
def ensemble_value(net, scratch, ensemble, tile, AGGREGATE: tl.constexpr, shape: tl.constexpr):
    """The aggregate of the ensemble's values. [R]."""
    value = member_value(net, scratch, 0, tile.owners, shape)
    for member in range(1, ensemble):
        other = member_value(net, scratch, member, tile.owners, shape)
        if AGGREGATE == "min":
            value = tl.where((other < value) | (other != other), other, value)  # noqa: PLR0124
        else:
            value += other
    if AGGREGATE == "mean":
        value = value / ensemble
    return value


@triton.jit
def order_of(q):
    """Integers that order as the floats do, with NaN above all and -0 equal to 0."""
    bits = tl.where(q == 0, 0.0, q).to(tl.int32, bitcast=True)
    return tl.where(q == q, bits ^ ((bits >> 31) & 0x7FFFFFFF), 0x7FFFFFFF)  # noqa: PLR0124


@triton.jit
def number_of(order):
    """The float that `order_of` made an integer of."""
    return (order ^ ((order >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def first_largest(order, tile, STATES: tl.constexpr):
    """By state, the largest of the rows' orders and the first particle that has it. [STATES], [STATES]."""
    mine = (tile.owners[None, :] == tl.arange(0, STATES)[:, None]) & tile.exists[None, :]
    largest = tl.max(tl.where(mine, order[None, :], -0x80000000), axis=1)
    has_it = mine & (order[None, :] == largest[:, None])
    return largest, tl.min(tl.where(has_it, tile.particles[None, :], 0x7FFFFFFF), axis=1)


@triton.jit
def sum_by_state(values, tile, STATES: tl.constexpr):
    """[R] -> [STATES]."""
    mine = (tile.owners[None, :] == tl.arange(0, STATES)[:, None]) & tile.exists[None, :]
    return tl.sum(tl.where(mine, values[None, :], 0.0), axis=1)


@triton.jit
def negative_log(u):
    """-log(u) for u in (0, 1), exact to the last bits near 1 too, where the fast logarithm is not."""
    d = 1 - u
    series = d * (1 + d * (1 / 2 + d * (1 / 3 + d * (1 / 4 + d * (1 / 5 + d * (1 / 6 + d * (1 / 7)))))))
    return tl.where(d < 0.1, series, -tl.log(u))
