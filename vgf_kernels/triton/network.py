"""A network on a tile of rows: forward, and the gradient with respect to the action inputs.

Activations live in the program's scratch memory, which is small enough to stay in the L2 cache; a barrier
separates the layers. Rows never mix, so a row that is not finite spoils no other.

A layer is a product, by chunks of columns that fill the registers, whose result goes to memory as it is; then norm and
activation, by whole rows (norm.py). So a chunk may be as wide as its accumulators allow, and nothing is carried from
one chunk to the next.

Cost of a hidden layer of width H on R rows: 2 R H^2 FLOPs in each direction. From and to L2, in elements of the
products' type (2 bytes in bfloat16, else 4): H^2 weights each way, and activations in units of R H: one read for every
chunk of columns, and besides forward 3 (the tape written and read, the result written; 1 without a norm), backward 4
(the gradient written and read, the tape read, the result written). Memory beyond the cache sees none of it as long as
programs * (depth + 2) R H fit there.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .activations import activate
from .norm import differentiate_rows, normalise_rows
from .products import dot, multiply_add, operand, store_as, store_operand
from .where import columns_of, hidden_matrix, layer_vectors


@triton.jit
def prepare_inputs(net, scratch, member, obs, first_state, B, shape: tl.constexpr):
    """obs @ W_obs + b for the tile's states, kept in scratch.inputs for all steps."""
    STATES: tl.constexpr = shape.states
    H: tl.constexpr = shape.width
    NARROW: tl.constexpr = shape.narrow
    PRODUCTS: tl.constexpr = shape.products
    # In bfloat16 what tf32 cuts off of the inputs is less than bfloat16 would, and rounding takes registers.
    CUT: tl.constexpr = scratch.y.dtype.element_ty == tl.bfloat16
    weights = net.edges + member * net.stride * 16
    biases = layer_vectors(net, member, 0, shape)
    inputs = scratch.inputs + member * STATES * H
    states, ks = tl.arange(0, STATES), tl.arange(0, 16)
    at = obs + (first_state + states).to(tl.int64)[:, None] * net.observations
    exists = (first_state + states < B)[:, None]
    for chunk in range(0, H, NARROW):
        columns = columns_of(net, chunk, NARROW)
        acc = tl.zeros([STATES, NARROW], tl.float32) + tl.load(biases + columns)[None, :]
        for k in range(0, net.observations, 16):
            given = exists & (k + ks < net.observations)[None, :]
            o = tl.load(at + (k + ks)[None, :], mask=given, other=0.0)
            w = tl.load(weights + (k + ks)[:, None] * H + columns[None, :])
            if not CUT:
                o = operand(o, PRODUCTS)
            acc = dot(o, w, acc, PRODUCTS)
        tl.store(inputs + states[:, None] * H + columns[None, :], acc)


@triton.jit
def forward(net, scratch, member, owners, t, TIMED: tl.constexpr, TAPED: tl.constexpr, shape: tl.constexpr):
    """All hidden layers on the actions in scratch.x. Returns which half of scratch.y the activations are in.

    owners [R]: each row's state within the tile. t: the time input of a velocity field, with TIMED.
    TAPED keeps in scratch.tape and scratch.stats what `input_gradient` needs.
    """
    R: tl.constexpr = shape.rows
    H: tl.constexpr = shape.width
    CHUNK: tl.constexpr = shape.chunk
    NARROW: tl.constexpr = shape.narrow
    NORM: tl.constexpr = shape.norm
    half = 0
    for layer in range(net.depth):
        tape, stats = scratch.tape, scratch.stats
        if TAPED:
            tape += layer * R * H
            stats += layer * 2 * R
        y = scratch.y + (1 - half) * R * H
        if layer == 0:
            for chunk in tl.range(0, H, NARROW, num_stages=1):  # no copy is under way while z is stored
                columns = columns_of(net, chunk, NARROW)
                z = _first_layer(net, scratch, member, owners, t, columns, TIMED, shape)
                _keep(z, tape, y, columns, TAPED, shape)
        else:
            for chunk in range(0, H, CHUNK):
                columns = columns_of(net, chunk, CHUNK)
                z = _hidden_layer(net, scratch, member, layer, half, columns, shape)
                _keep(z, tape, y, columns, TAPED, shape)
        tl.debug_barrier()
        if NORM == "none":
            half = 1 - half
        else:
            normalise_rows(net, member, layer, tape, scratch.y, stats, TAPED, shape)
            tl.debug_barrier()
    return half


@triton.jit
def _keep(z, tape, y, columns, TAPED: tl.constexpr, shape: tl.constexpr):
    """Columns of what enters a layer's norm to the tape; without a norm, of the layer's output to y [R, H]."""
    NORM: tl.constexpr = shape.norm
    ACTIVATION: tl.constexpr = shape.activation
    PRODUCTS: tl.constexpr = shape.products
    at = tl.arange(0, shape.rows)[:, None] * shape.width + columns[None, :]
    if TAPED or NORM != "none":
        store_as(tape + at, z)
    if NORM == "none":
        store_operand(y + at, activate(z, ACTIVATION), PRODUCTS)


@triton.jit
def _first_layer(net, scratch, member, owners, t, columns, TIMED: tl.constexpr, shape: tl.constexpr):
    """Columns of the first layer's z: [R, columns]. To the observations' part it adds the actions'."""
    R: tl.constexpr = shape.rows
    H: tl.constexpr = shape.width
    A: tl.constexpr = shape.actions
    PRODUCTS: tl.constexpr = shape.products
    first = net.edges + member * net.stride * 16 + net.observations * H
    z = tl.load(scratch.inputs + (member * shape.states + owners)[:, None] * H + columns[None, :])
    if TIMED:
        z += t * tl.load(first + net.actions * H + columns)[None, :]
    CUT: tl.constexpr = scratch.y.dtype.element_ty == tl.bfloat16  # see prepare_inputs
    return multiply_add(z, scratch.x, A, 0, first, H, 0, A, columns, R, 16, PRODUCTS, CUT)


@triton.jit
def _hidden_layer(net, scratch, member, layer, half, columns, shape: tl.constexpr):
    """Columns of a later layer's z, from a half of scratch.y: [R, columns]."""
    R: tl.constexpr = shape.rows
    H: tl.constexpr = shape.width
    CHUNK: tl.constexpr = shape.chunk
    BLOCK: tl.constexpr = shape.block
    PRODUCTS: tl.constexpr = shape.products
    bias = tl.load(layer_vectors(net, member, layer, shape) + columns)
    z = tl.zeros([R, CHUNK], tl.float32) + bias[None, :]
    inner = tl.load(net.widths + layer - 1)
    matrix = hidden_matrix(net, member, layer, 0, shape)
    return multiply_add(z, scratch.y, H, half * R, net.hidden, H, matrix, inner, columns, R, BLOCK, PRODUCTS)


@triton.jit
def critic_value(net, scratch, member, half, shape: tl.constexpr):
    """The last layer of a critic on the activations that `forward` left: q [R]."""
    R: tl.constexpr = shape.rows
    H: tl.constexpr = shape.width
    NARROW: tl.constexpr = shape.narrow
    rows = tl.arange(0, R)
    last = layer_vectors(net, member, net.depth, shape)
    q = tl.zeros([R], tl.float32) + tl.load(last + H)
    for chunk in range(0, H, NARROW):
        columns = columns_of(net, chunk, NARROW)
        y = tl.load(scratch.y + half * R * H + rows[:, None] * H + columns[None, :]).to(tl.float32)
        q += tl.sum(y * tl.load(last + columns)[None, :], axis=1)
    return q


@triton.jit
def velocity(net, scratch, half, first_column, shape: tl.constexpr):
    """16 columns of the last layer of a velocity field on the activations that `forward` left: [R, 16]."""
    R: tl.constexpr = shape.rows
    BLOCK: tl.constexpr = shape.block
    PRODUCTS: tl.constexpr = shape.products
    H: tl.constexpr = shape.width
    A: tl.constexpr = shape.actions
    columns = first_column + tl.arange(0, 16)
    last = layer_vectors(net, 0, net.depth, shape)
    v = tl.zeros([R, 16], tl.float32) + tl.load(last + H * A + columns)[None, :]
    inner = tl.load(net.widths + net.depth - 1)
    return multiply_add(v, scratch.y, H, half * R, last, A, 0, inner, columns, R, BLOCK, PRODUCTS)


@triton.jit
def input_gradient(net, scratch, member, shape: tl.constexpr):
    """After a taped `forward`: the gradient of q at the first layer's output, to the first half of scratch.y."""
    R: tl.constexpr = shape.rows
    H: tl.constexpr = shape.width
    CHUNK: tl.constexpr = shape.chunk
    BLOCK: tl.constexpr = shape.block
    PRODUCTS: tl.constexpr = shape.products
    rows = tl.arange(0, R)
    raw = scratch.y + R * H
    for back in range(net.depth):
        layer = net.depth - 1 - back
        if layer < net.depth - 1:
            inner = tl.load(net.widths + layer + 1)
            matrix = hidden_matrix(net, member, layer + 1, 1, shape)
            for chunk in range(0, H, CHUNK):
                columns = columns_of(net, chunk, CHUNK)
                g = tl.zeros([R, CHUNK], tl.float32)
                g = multiply_add(
                    g, scratch.y, H, 0, net.hidden, H, matrix, inner, columns, R, BLOCK, PRODUCTS
                )
                store_as(raw + rows[:, None] * H + columns[None, :], g)
            tl.debug_barrier()
        tape, stats = scratch.tape + layer * R * H, scratch.stats + layer * 2 * R
        differentiate_rows(net, member, layer, tape, raw, scratch.y, stats, shape)
        tl.debug_barrier()


@triton.jit
def action_gradient(net, scratch, member, first_column, shape: tl.constexpr):
    """16 columns of dq/da from the gradient that `input_gradient` left: [R, 16]."""
    R: tl.constexpr = shape.rows
    BLOCK: tl.constexpr = shape.block
    PRODUCTS: tl.constexpr = shape.products
    H: tl.constexpr = shape.width
    A: tl.constexpr = shape.actions
    columns = first_column + tl.arange(0, 16)
    w = net.edges + member * net.stride * 16 + net.first * H
    inner = tl.load(net.widths)
    acc = tl.zeros([R, 16], tl.float32)
    return multiply_add(acc, scratch.y, H, 0, w, A, 0, inner, columns, R, BLOCK, PRODUCTS)
