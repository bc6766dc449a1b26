"""A call under vmap on one device: folded into one call of the engine where it can be, else a loop of calls."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp

from .calls import Call
from .lowering import vgf_handler


def run(call: Call, operands) -> list[jax.Array]:
    """The results of a call, from the outermost mapped axis inwards."""
    if not call.mapped:
        return vgf_handler.bind(*operands, call=call)
    having, *others = call.mapped
    each = replace(call, mapped=tuple(others))
    if call.looped[0]:
        return _one_by_one(each, having, operands)
    return _folded(each, having, operands, call.sizes(operands)[0])


def _one_by_one(each: Call, having, operands):
    """A loop, for weights or step counts differ."""

    def one(mapped):
        rest = iter(mapped)
        return run(each, [next(rest) if has else o for o, has in zip(operands, having)])

    return jax.lax.map(one, [o for o, has in zip(operands, having) if has])


def _folded(each: Call, having, operands, size):
    """One call for all, of more states: they never mix."""
    folded = []
    for operand, has, (*_, at) in zip(operands, having, each.operand_axes):
        if at is not None:
            if has:
                operand = jnp.moveaxis(operand, 0, at)
            else:
                operand = jnp.broadcast_to(jnp.expand_dims(operand, at), (*operand.shape[:at], size, *operand.shape[at:]))
            shape = operand.shape  # and no -1: states may have no observations, and act no noise to select by
            operand = operand.reshape(*shape[:at], size * shape[at + 1], *shape[at + 2 :])
        folded.append(operand)
    unfolded = []
    for got, (*_, at) in zip(run(each, folded), each.result_axes):
        split = got.reshape(*got.shape[:at], size, -1, *got.shape[at + 1 :])
        unfolded.append(jnp.moveaxis(split, at, 0))
    return unfolded
