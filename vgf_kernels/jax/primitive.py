"""One JAX primitive for every call of an engine, which knows which axis counts states.

States never mix. So vmap folds its axis into the states, and the compiler may cut a call along them: on several
devices each works on the states it holds.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.experimental.custom_partitioning import custom_partitioning
from jax.extend.core import Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir
from jax.sharding import NamedSharding, PartitionSpec

from .calls import Call
from .lowering import vgf_handler
from .platforms import engine_for


def run(*args: Any, **keywords: Any) -> list[jax.Array]:
    """The results of Call.of(...)."""
    call, operands = Call.of(*args, **keywords)
    return _bind(call, *operands)


vgf_call = Primitive("vgf_call")
vgf_call.multiple_results = True


def _bind(call: Call, *operands) -> list[jax.Array]:
    return varying_as(operands, _bind_plain(call, *operands))


def _bind_plain(call: Call, *operands) -> list[jax.Array]:
    """Where what surrounds a call says itself along which axes of a shard_map the results vary, as around vmap's."""
    shapes = tuple((jnp.shape(o), jnp.result_type(o)) for o in operands)
    return vgf_call.bind(*operands, call=call, jaxpr=_traced(call, shapes))


@functools.lru_cache(maxsize=1024)
def _traced(call: Call, shapes):
    """What the call lowers to. JAX looks into it to see that it must know the devices by then."""
    ranks = tuple(len(shape) for shape, _ in shapes)
    return jax.make_jaxpr(_partitioned(call, ranks))(*(jax.ShapeDtypeStruct(*shape) for shape in shapes))


@functools.lru_cache(maxsize=1024)
def _compiled(call: Call):
    return jax.jit(functools.partial(_bind, call))


@vgf_call.def_impl
def _run(*operands, call: Call, jaxpr):
    with jax.disable_jit(False):
        return _compiled(call)(*operands)


@vgf_call.def_abstract_eval
def _abstract(*operands, call: Call, jaxpr):
    shapes = zip(call.shapes(operands), call.results)
    return [ShapedArray(s, np.dtype(r.dtype), **_type_of_cut(operands, call, len(s), r.axis)) for s, r in shapes]


def _type_of_cut(operands, call: Call, rank: int, axis: int) -> dict:
    """What the type of a result says of its sharding, where those of the operands do: on meshes with explicit axes, which
    the states are cut along."""
    for operand, counts in zip(operands, call.per_state):
        sharding = getattr(operand, "sharding", None)
        parts = next(iter(getattr(sharding, "spec", ())), None)
        if counts and parts is not None:
            spec = [parts if i == axis else None for i in range(rank)]
            return {"sharding": NamedSharding(sharding.mesh, PartitionSpec(*spec))}
    return {}


def refuse_derivative(*_, **__):
    raise NotImplementedError(
        "expected value to be differentiated once, with respect to the actions; a second derivative goes through the "
        "engine, which has none: use plain JAX for it"
    )


ad.primitive_jvps[vgf_call] = refuse_derivative


def varying_as(operands, results) -> list[jax.Array]:
    """The results, of a type that differs along the axes of an enclosing shard_map along which the operands do."""
    axes = frozenset().union(*map(_varying, operands))
    return [_vary(result, tuple(axes - _varying(result))) for result in results]


def _varying(array) -> frozenset:
    """The axes of an enclosing shard_map along which the array differs, where this JAX keeps account of it."""
    if not hasattr(jax, "typeof"):
        return frozenset()
    aval = jax.typeof(array)
    return getattr(getattr(aval, "manual_axis_type", aval), "varying", None) or getattr(
        aval, "vma", frozenset()
    )


def _vary(array: jax.Array, axes: tuple) -> jax.Array:
    if not axes:
        return array
    return (
        jax.lax.pcast(array, axes, to="varying") if hasattr(jax.lax, "pcast") else jax.lax.pvary(array, axes)
    )


# ---- vmap


def _batched(operands, axes, *, call: Call, jaxpr):
    size = next(o.shape[axis] for o, axis in zip(operands, axes) if axis is not None)
    if size == 0:
        raise ValueError("vmap: expected at least one along the mapped axis, got 0; skip empty calls")
    fronted = [o if axis is None else jnp.moveaxis(o, axis, 0) for o, axis in zip(operands, axes)]
    if any(axis is not None and not counts for axis, counts in zip(axes, call.per_state)):
        return _one_by_one(fronted, axes, call)  # other weights or step counts for each
    folded = []
    for operand, axis, counts in zip(fronted, axes, call.per_state):
        if counts and axis is None:
            operand = jnp.broadcast_to(operand, (size, *operand.shape))
        # no -1 here: states may have no observations, and act no noise to select by
        folded.append(operand.reshape(size * operand.shape[1], *operand.shape[2:]) if counts else operand)
    results = _bind_plain(call, *folded)
    unfolded = []
    for got, result in zip(results, call.results):
        at = result.axis
        split = got.reshape(*got.shape[:at], size, -1, *got.shape[at + 1 :])
        unfolded.append(jnp.moveaxis(split, at, 0))
    return unfolded, [0] * len(unfolded)


def _one_by_one(fronted, axes, call: Call):
    results = _mapped(call, tuple(axis is not None for axis in axes))(*fronted)
    return results, [0] * len(results)


@functools.lru_cache(maxsize=1024)
def _mapped(call: Call, mapped: tuple[bool, ...]):
    """Compiled once for all eager calls."""

    def every(*operands):
        def one(batched):
            rest = iter(batched)
            return _bind_plain(call, *(next(rest) if each else o for o, each in zip(operands, mapped)))

        return jax.lax.map(one, [o for o, each in zip(operands, mapped) if each])

    return jax.jit(every)


batching.primitive_batchers[vgf_call] = _batched


# ---- several devices


@functools.lru_cache(maxsize=1024)
def _partitioned(call: Call, ranks: tuple[int, ...]):
    """The custom call as something the compiler may cut along the states, and along nothing else."""

    def local(*operands):
        return vgf_handler.bind(*operands, call=call)

    def shardings(mesh, parts):
        def one(rank, axis):
            spec = [None] * rank
            if axis is not None:
                spec[axis] = parts
            return NamedSharding(mesh, PartitionSpec(*spec))

        operands = tuple(one(rank, 0 if counts else None) for rank, counts in zip(ranks, call.per_state))
        return operands, [one(len(r.shape), r.axis) for r in call.results]

    def parts_of(shapes, axes):
        """How the first sharded array's states are cut."""
        for shape, axis in zip(shapes, axes):
            spec = getattr(shape.sharding, "spec", ())
            if axis is not None and axis < len(spec) and spec[axis] is not None:
                return spec[axis]
        return None

    def from_operands(operand_shapes):
        return parts_of(operand_shapes, [0 if counts else None for counts in call.per_state])

    def infer(mesh, operand_shapes, result_shapes):
        return shardings(mesh, from_operands(operand_shapes))[1]

    def partition(mesh, operand_shapes, result_shapes):
        parts = parts_of(result_shapes, [r.axis for r in call.results]) or from_operands(operand_shapes)
        operands, results = shardings(mesh, parts)
        return mesh, local, results, operands

    function = custom_partitioning(local)
    function.def_partition(
        partition=partition, infer_sharding_from_operands=infer, sharding_rule=_sharding_rule(call, ranks)
    )
    return function


def _sharding_rule(call: Call, ranks) -> str:
    """The same in Shardy's notation: one letter for the states, a name of its own for every other axis."""
    names = (f"x{i}" for i in range(10**6))

    def term(rank, axis):
        return " ".join("b" if i == axis else next(names) for i in range(rank))

    operands = [term(rank, 0 if counts else None) for rank, counts in zip(ranks, call.per_state)]
    results = [term(len(r.shape), r.axis) for r in call.results]
    return f"{', '.join(operands)} -> {', '.join(results)}"


# ---- lowering


def _lower(context, *operands, call: Call, jaxpr):
    plain = context.replace(avals_in=jaxpr.in_avals, avals_out=jaxpr.out_avals)
    return mlir.lower_fun(jaxpr_as_fun(jaxpr), multiple_results=True)(plain, *operands)


def _refuse(context, *operands, call: Call, jaxpr):
    engine_for(call.terms.backend, context.module_context.platforms[0])


mlir.register_lowering(vgf_call, _refuse)
mlir.register_lowering(vgf_call, _lower, platform="cpu")
mlir.register_lowering(vgf_call, _lower, platform="cuda")
