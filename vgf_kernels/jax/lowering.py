"""From a call on one device to XLA custom calls, once the platform is known: packing, then the call, or a loop of calls."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax.ffi
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import mlir

from .. import engines
from . import stepwise
from .attributes import encode
from .calls import Call, Result
from .networks import Layout, role_of
from .platforms import Fused, engine_for

vgf_handler = Primitive("vgf_handler")  # a call on one device
vgf_handler.multiple_results = True


@vgf_handler.def_abstract_eval
def _results(*operands, call: Call):
    return [ShapedArray(s, np.dtype(r.dtype)) for s, r in zip(call.shapes(operands), call.results)]


def _lower(context, *operands, call: Call, platform: str):
    engine = engine_for(call.terms.backend, platform)
    return mlir.lower_fun(functools.partial(_expand, engine, call), multiple_results=True)(context, *operands)


def _expand(engine: Fused, call: Call, *operands):
    """The custom calls that a call is on an engine."""
    module = engine.handlers()
    precision = dict(call.terms.precisions)[engine.name]
    engines.check_number_format(engine.name, "float32", precision)
    networks, arrays = call.split(operands)
    settings = dict(call.attributes)

    def custom(handler, results, operands, **attributes):
        if engine.name == "cpu":
            attributes["threads"] = call.terms.threads
        custom = Custom(
            engine.prefix + handler, tuple(results), ALIASES.get(handler, ()), tuple(attributes.items())
        )
        return vgf_custom_call.bind(*operands, custom=custom)

    def pack(description, weights):
        size = description.packed_bytes(module)
        return custom("pack", [Result((size,), np.uint8)], weights, network=description.attribute())

    if call.handler == "pack":
        ((net, weights),) = networks
        return pack(net.description, weights)
    packed, borrowed = {}, []
    for net, weights in networks:
        described = net.description
        if described.layout is None:
            in_place = engine.reads_in_place(precision, arrays[0].shape[0] * arrays[1].shape[1])
            layout = Layout(engine.name, precision, arrays[0].shape[1], role_of(net.name), in_place)
            described = described._replace(layout=layout)
            if in_place:
                borrowed += weights
                weights = [jnp.zeros(0, np.uint8)]
            else:
                weights = pack(described, weights)
        packed[net.name] = described, weights
        settings[net.name] = described.attribute()
    if engine.counts_on_device and stepwise.needed(call, arrays, module.most_in_a_launch(precision)):
        return stepwise.run(call, packed, arrays, vgf_handler.bind)
    results = [result._replace(shape=shape) for result, shape in zip(call.results, call.shapes(operands))]
    weights = [array for _, held in packed.values() for array in held]
    return custom(call.handler, results, [*weights, *arrays, *borrowed], **settings)


ALIASES = {"update": ((2, 1), (3, 2))}  # the moments; XLA copies operands that are needed afterwards

mlir.register_lowering(vgf_handler, functools.partial(_lower, platform="cpu"), platform="cpu")
mlir.register_lowering(vgf_handler, functools.partial(_lower, platform="cuda"), platform="cuda")


# ---- one custom call

vgf_custom_call = Primitive("vgf_custom_call")
vgf_custom_call.multiple_results = True


class Custom(NamedTuple):
    """A custom call with everything but its operands.

    Attributes:
        aliases: (operand, result) pairs that share their memory.
    """

    target: str
    results: tuple[Result, ...]
    aliases: tuple[tuple[int, int], ...]
    attributes: tuple[tuple[str, Any], ...]


@vgf_custom_call.def_abstract_eval
def _custom_results(*operands, custom: Custom):
    return [ShapedArray(result.shape, np.dtype(result.dtype)) for result in custom.results]


@functools.partial(mlir.register_lowering, vgf_custom_call)
def _lower_custom_call(context, *operands, custom: Custom):
    lower = jax.ffi.ffi_lowering(custom.target, operand_output_aliases=dict(custom.aliases))
    return lower(context, *operands, **{name: encode(value) for name, value in custom.attributes})
