"""One JAX primitive for every call of an engine, which knows which axis counts states.

States never mix. So the compiler may cut a call along them, and along what vmap maps: on several devices each works on the
states it holds, and only there are mapped axes folded into the states.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.extend.core import Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir
from jax.sharding import NamedSharding

from .calls import Call
from .partition import partitioned, parts_of, spec_of
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
    return jax.make_jaxpr(partitioned(call, ranks))(*(jax.ShapeDtypeStruct(*shape) for shape in shapes))


@functools.lru_cache(maxsize=128)  # each holds what XLA has compiled, a megabyte or two
def _compiled(call: Call):
    def run(*operands):
        return _bind(call, *operands)

    run.__name__ = run.__qualname__ = f"vgf_{call.handler}"
    run._apply_primitive = True  # for jax_debug_nans: where its results are NaN there is nothing within to look for
    return jax.jit(run)


@vgf_call.def_impl
def _run(*operands, call: Call, jaxpr):
    with jax.disable_jit(False):
        return _compiled(call)(*operands)


@vgf_call.def_abstract_eval
def _abstract(*operands, call: Call, jaxpr):
    types = [(shape, np.dtype(result.dtype)) for shape, result in zip(call.shapes(operands), call.results)]
    parts = parts_of(operands, call.operand_axes)
    if not any(parts):
        return [ShapedArray(*each) for each in types]
    # On meshes with explicit axes, where types say how arrays are cut.
    mesh = next(o.sharding.mesh for o in operands if any(o.sharding.spec))
    specs = [spec_of(parts, len(shape), axes) for (shape, _), axes in zip(types, call.result_axes)]
    return [ShapedArray(*each, sharding=NamedSharding(mesh, spec)) for each, spec in zip(types, specs)]


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
    aval = array if isinstance(array, jax.ShapeDtypeStruct) else jax.typeof(array)
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
    having = tuple(axis is not None for axis in axes)
    results = _bind_plain(replace(call, mapped=(having, *call.mapped)), *fronted)
    return results, [0] * len(results)


batching.primitive_batchers[vgf_call] = _batched


# ---- lowering


def _lower(context, *operands, call: Call, jaxpr):
    plain = context.replace(avals_in=jaxpr.in_avals, avals_out=jaxpr.out_avals)
    return mlir.lower_fun(jaxpr_as_fun(jaxpr), multiple_results=True)(plain, *operands)


def _refuse(context, *operands, call: Call, jaxpr):
    for platform in context.module_context.platforms:
        engine_for(call.terms.backend, platform)


mlir.register_lowering(vgf_call, _refuse)
mlir.register_lowering(vgf_call, _lower, platform="cpu")
mlir.register_lowering(vgf_call, _lower, platform="cuda")
