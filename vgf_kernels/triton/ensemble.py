"""An ensemble of critics on a tile: values, and the gradient of their aggregate with respect to the actions."""

from __future__ import annotations

import triton
import triton.language as tl

from .network import action_gradient, critic_value, forward, input_gradient, prepare_inputs
from .tile import renewed


@triton.jit
def prepare_members(net, scratch, ensemble, obs, first_state, B, shape: tl.constexpr):
    """The first layer's observation part of every member, for the tile's states."""
    for member in range(ensemble):
        prepare_inputs(net, scratch, member, obs, first_state, B, shape)


@triton.jit
def member_value(net, scratch, member, owners, shape: tl.constexpr):
    """q [R] of one critic."""
    tl.debug_barrier()
    half = forward(net, scratch, member, owners, 0.0, False, False, shape)
    return critic_value(net, scratch, member, half, shape)


@triton.jit
def member_value_and_gradient(net, scratch, member, owners, shape: tl.constexpr):
    """q [R] of one critic; what `action_gradient` needs is left in scratch.y."""
    tl.debug_barrier()
    half = forward(net, scratch, member, owners, 0.0, False, True, shape)
    q = critic_value(net, scratch, member, half, shape)
    tl.debug_barrier()
    input_gradient(net, scratch, member, shape)
    return q


@triton.jit
def ensemble_gradient(net, scratch, ensemble, tile, q, total, AGGREGATE: tl.constexpr, shape: tl.constexpr):
    """The gradient of the aggregate, to scratch.dq; each q to `q` [E, total], where that is not None.

    With "min" the gradient is that of the smallest critic so far, or the sum over equally small ones, which the
    last member divides by their number: one tape serves all members.
    """
    R: tl.constexpr = shape.rows
    A: tl.constexpr = shape.actions
    rows = tl.arange(0, R)
    smallest = tl.zeros([R], tl.float32)
    tied = tl.zeros([R], tl.float32)
    for member in range(ensemble):
        value = member_value_and_gradient(net, scratch, member, renewed(net, tile, R).owners, shape)
        if q is not None:
            here = renewed(net, tile, R)
            tl.store(q + member * total + here.at, value, mask=here.exists)
        if AGGREGATE == "min":
            replaces = (value < smallest) | (value != value) | (member == 0)  # noqa: PLR0124
            joins = (value == smallest) & (member > 0)
            smallest = tl.where(replaces, value, smallest)
            tied = tl.where(replaces, 1.0, tl.where(joins, tied + 1, tied))
        for c in range(0, A, 16):
            g = action_gradient(net, scratch, member, c, shape)
            at = scratch.dq + rows[:, None] * A + (c + tl.arange(0, 16))[None, :]
            before = tl.load(at, mask=(rows >= 0)[:, None] & (member > 0), other=0.0)
            tl.debug_barrier()
            if AGGREGATE == "min":
                g = tl.where(replaces[:, None], g, tl.where(joins[:, None], before + g, before))
                if member == ensemble - 1:  # of a value that is NaN, so is the gradient, whatever its backward pass has given
                    g = tl.where((smallest == smallest)[:, None], g / tied[:, None], float("nan"))  # noqa: PLR0124
            else:
                g = before + g / ensemble
            tl.store(at, g)
    tl.debug_barrier()
