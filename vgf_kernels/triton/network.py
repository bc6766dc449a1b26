"""A network on a tile of rows: forward, and the gradient with respect to the action inputs.

Activations live in the program's scratch memory, which is small enough to stay in the L2 cache; a barrier
separates the layers. Rows never mix, so a row that is not finite spoils no other.

Cost of a hidden layer of width H on R rows: 2 R H^2 FLOPs in each direction. From and to L2, in elements of the
products' type (2 bytes in bfloat16, else 4): H^2 weights each way, and activations in units of R H: one read for every
chunk of columns, and besides forward 3 (the tape written and read again, the result written), backward 5 (the tape
read twice; the gradient written, read and written). Where one chunk is the whole width it is 2 and 3. Memory beyond
the cache sees none of it as long as programs * (depth + 2) R H fit there.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .activations import activate, slope
from .tiles import dot, multiply_add, operand, store_as, store_operand


@triton.jit
def prepare_inputs(net, scratch, member, obs, first_state, B, shape: tl.constexpr):
    """obs @ W_obs + b for the tile's states, kept in scratch.inputs for all steps."""
    STATES: tl.constexpr = shape.states
    H: tl.constexpr = shape.width
    CHUNK: tl.constexpr = shape.chunk
    PRODUCTS: tl.constexpr = shape.products
    # In bfloat16 what tf32 cuts off of the inputs is less than bfloat16 would, and rounding takes registers.
    CUT: tl.constexpr = scratch.y.dtype.element_ty == tl.bfloat16
    weights = net.edges + member * net.stride * 16
    biases = layer_vectors(net, member, 0, shape)
    inputs = scratch.inputs + member * STATES * H
    states, ks = tl.arange(0, STATES), tl.arange(0, 16)
    at = obs + (first_state + states).to(tl.int64)[:, None] * net.observations
    exists = (first_state + states < B)[:, None]
    for chunk in range(0, H, CHUNK):
        columns = _columns(net, chunk, CHUNK)
        acc = tl.zeros([STATES, CHUNK], tl.float32) + tl.load(biases + columns)[None, :]
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
    NORM: tl.constexpr = shape.norm
    ACTIVATION: tl.constexpr = shape.activation
    PRODUCTS: tl.constexpr = shape.products
    ONE_PASS: tl.constexpr = H == CHUNK or NORM == "none"
    rows = tl.arange(0, R)
    half = 0
    for layer in range(net.depth):
        vectors = layer_vectors(net, member, layer, shape)
        width = tl.load(net.widths + layer)
        y_rows = (1 - half) * R + rows
        tape_rows = rows
        stats = scratch.stats
        if TAPED:
            tape_rows += layer * R
            stats += layer * 2 * R
        mean = tl.zeros([R], tl.float32)
        square = tl.zeros([R], tl.float32)  # sum of squared differences from the mean
        for chunk in range(0, H, CHUNK):
            columns = _columns(net, chunk, CHUNK)
            z = _linear(net, scratch, member, layer, half, owners, t, columns, TIMED, shape)
            if TAPED or not ONE_PASS:
                store_as(scratch.tape + tape_rows[:, None] * H + columns[None, :], z)
            if NORM == "post":
                z = activate(z, ACTIVATION)
            if NORM != "none":
                mean, square = _add_to_statistics(mean, square, z, chunk, width, CHUNK)
            if ONE_PASS:
                if NORM != "none":
                    rstd = 1 / tl.sqrt(square / width + net.eps)
                    z = (z - mean[:, None]) * rstd[:, None]
                    z = (
                        z * tl.load(vectors + H + columns)[None, :]
                        + tl.load(vectors + 2 * H + columns)[None, :]
                    )
                if NORM != "post":
                    z = activate(z, ACTIVATION)
                store_operand(scratch.y + y_rows[:, None] * H + columns[None, :], z, PRODUCTS)
        if NORM != "none":
            rstd = 1 / tl.sqrt(square / width + net.eps)
            if TAPED:
                tl.store(stats + rows, mean)
                tl.store(stats + R + rows, rstd)
            if not ONE_PASS:
                tl.debug_barrier()
                for chunk in range(0, H, CHUNK):
                    columns = _columns(net, chunk, CHUNK)
                    z = tl.load(scratch.tape + tape_rows[:, None] * H + columns[None, :]).to(tl.float32)
                    if NORM == "post":
                        z = activate(z, ACTIVATION)
                    z = (z - mean[:, None]) * rstd[:, None]
                    z = (
                        z * tl.load(vectors + H + columns)[None, :]
                        + tl.load(vectors + 2 * H + columns)[None, :]
                    )
                    if NORM == "pre":
                        z = activate(z, ACTIVATION)
                    store_operand(scratch.y + y_rows[:, None] * H + columns[None, :], z, PRODUCTS)
        half = 1 - half
        tl.debug_barrier()
    return half


@triton.jit
def _linear(net, scratch, member, layer, half, owners, t, columns, TIMED: tl.constexpr, shape: tl.constexpr):
    """Columns of what enters a layer's norm: [R, columns]. The first layer adds the observations' part."""
    R: tl.constexpr = shape.rows
    H: tl.constexpr = shape.width
    A: tl.constexpr = shape.actions
    CHUNK: tl.constexpr = shape.chunk
    BLOCK: tl.constexpr = shape.block
    PRODUCTS: tl.constexpr = shape.products
    if layer == 0:
        first = net.edges + member * net.stride * 16 + net.observations * H
        z = tl.load(scratch.inputs + (member * shape.states + layer + owners)[:, None] * H + columns[None, :])
        if TIMED:
            z += t * tl.load(first + net.actions * H + columns)[None, :]
        CUT: tl.constexpr = scratch.y.dtype.element_ty == tl.bfloat16  # see prepare_inputs
        z = multiply_add(z, scratch.x, A, layer, first, H, layer, A, columns, R, 16, PRODUCTS, CUT)
    else:
        z = (
            tl.zeros([R, CHUNK], tl.float32)
            + tl.load(layer_vectors(net, member, layer, shape) + columns)[None, :]
        )
        inner = tl.load(net.widths + layer - 1)
        matrix = hidden_matrix(net, member, layer, 0, shape)
        z = multiply_add(
            z, scratch.y, H, half * R, net.hidden, H, matrix, inner, columns, R, BLOCK, PRODUCTS
        )
    return z


@triton.jit
def _add_to_statistics(mean, square, z, chunk, width, CHUNK: tl.constexpr):
    """Mean and sum of squared differences of the columns so far and those of z, merged without cancellation."""
    here = (chunk + tl.arange(0, CHUNK) < width)[None, :]
    count = tl.minimum(width - chunk, CHUNK).to(tl.float32)
    if count > 0:
        own_mean = tl.sum(tl.where(here, z, 0.0), axis=1) / count
        centred = tl.where(here, z - own_mean[:, None], 0.0)
        gap = own_mean - mean
        square += tl.sum(centred * centred, axis=1) + gap * gap * (count * chunk / (count + chunk))
        mean += gap * (count / (count + chunk))
    return mean, square


@triton.jit
def critic_value(net, scratch, member, half, shape: tl.constexpr):
    """The last layer of a critic on the activations that `forward` left: q [R]."""
    R: tl.constexpr = shape.rows
    H: tl.constexpr = shape.width
    CHUNK: tl.constexpr = shape.chunk
    rows = tl.arange(0, R)
    last = layer_vectors(net, member, net.depth, shape)
    q = tl.zeros([R], tl.float32) + tl.load(last + H)
    for chunk in range(0, H, CHUNK):
        columns = _columns(net, chunk, CHUNK)
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
    """After a taped `forward`: which half of scratch.y the gradient of q at the first layer's output is in."""
    R: tl.constexpr = shape.rows
    H: tl.constexpr = shape.width
    CHUNK: tl.constexpr = shape.chunk
    NORM: tl.constexpr = shape.norm
    ACTIVATION: tl.constexpr = shape.activation
    PRODUCTS: tl.constexpr = shape.products
    ONE_PASS: tl.constexpr = H == CHUNK or NORM == "none"
    rows = tl.arange(0, R)
    half = 0
    for back in range(net.depth):
        layer = net.depth - 1 - back
        vectors = layer_vectors(net, member, layer, shape)
        width = tl.load(net.widths + layer)
        stats = scratch.stats + layer * 2 * R
        tape_rows = layer * R + rows
        out_rows = (1 - half) * R + rows
        mean = tl.zeros([R], tl.float32)
        rstd = tl.zeros([R], tl.float32)
        if NORM != "none":
            mean = tl.load(stats + rows)
            rstd = tl.load(stats + R + rows)
        total = tl.zeros([R], tl.float32)
        along = tl.zeros([R], tl.float32)
        for chunk in range(0, H, CHUNK):
            columns = _columns(net, chunk, CHUNK)
            g = _gradient_of_output(net, scratch, member, layer, half, columns, shape)
            z = tl.load(scratch.tape + tape_rows[:, None] * H + columns[None, :]).to(tl.float32)
            if NORM == "none":
                g *= slope(z, ACTIVATION)
            else:
                scale = tl.load(vectors + H + columns)[None, :]
                normalised = _normalised(z, mean, rstd, NORM, ACTIVATION)
                if NORM == "pre":
                    bias = tl.load(vectors + 2 * H + columns)[None, :]
                    g *= slope(normalised * scale + bias, ACTIVATION)
                g *= scale
                total += tl.sum(g, axis=1)
                along += tl.sum(g * normalised, axis=1)
            if ONE_PASS and NORM != "none":
                tl.debug_barrier()  # the tape is read again rather than kept in registers
                z = tl.load(scratch.tape + tape_rows[:, None] * H + columns[None, :]).to(tl.float32)
                g = _norm_gradient(g, z, mean, rstd, total / width, along / width, NORM, ACTIVATION)
            at = scratch.y + out_rows[:, None] * H + columns[None, :]
            if ONE_PASS:
                store_operand(at, g, PRODUCTS)
            else:
                store_as(at, g)
        if not ONE_PASS:
            tl.debug_barrier()
            for chunk in range(0, H, CHUNK):
                columns = _columns(net, chunk, CHUNK)
                g = tl.load(scratch.y + out_rows[:, None] * H + columns[None, :]).to(tl.float32)
                z = tl.load(scratch.tape + tape_rows[:, None] * H + columns[None, :]).to(tl.float32)
                tl.debug_barrier()  # every thread has read what others overwrite
                g = _norm_gradient(g, z, mean, rstd, total / width, along / width, NORM, ACTIVATION)
                store_operand(scratch.y + out_rows[:, None] * H + columns[None, :], g, PRODUCTS)
        half = 1 - half
        tl.debug_barrier()
    return half


@triton.jit
def _gradient_of_output(net, scratch, member, layer, half, columns, shape: tl.constexpr):
    """Columns of dq/dy of a hidden layer's output y: the last layer's weights, or the next layer's gradient."""
    R: tl.constexpr = shape.rows
    BLOCK: tl.constexpr = shape.block
    PRODUCTS: tl.constexpr = shape.products
    H: tl.constexpr = shape.width
    CHUNK: tl.constexpr = shape.chunk
    g = tl.zeros([R, CHUNK], tl.float32)
    if layer == net.depth - 1:
        g += tl.load(layer_vectors(net, member, net.depth, shape) + columns)[None, :]
    else:
        inner = tl.load(net.widths + layer + 1)
        matrix = hidden_matrix(net, member, layer + 1, 1, shape)
        g = multiply_add(
            g, scratch.y, H, half * R, net.hidden, H, matrix, inner, columns, R, BLOCK, PRODUCTS
        )
    return g


@triton.jit
def _normalised(z, mean, rstd, NORM: tl.constexpr, ACTIVATION: tl.constexpr):
    if NORM == "post":
        z = activate(z, ACTIVATION)
    return (z - mean[:, None]) * rstd[:, None]


@triton.jit
def _norm_gradient(g, z, mean, rstd, g_mean, along, NORM: tl.constexpr, ACTIVATION: tl.constexpr):
    """From the gradient g of the normalised values to that of what entered the norm and, with "post", z."""
    g = rstd[:, None] * (g - g_mean[:, None] - _normalised(z, mean, rstd, NORM, ACTIVATION) * along[:, None])
    if NORM == "post":
        g *= slope(z, ACTIVATION)
    return g


@triton.jit
def action_gradient(net, scratch, member, half, first_column, shape: tl.constexpr):
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
    return multiply_add(acc, scratch.y, H, half * R, w, A, 0, inner, columns, R, BLOCK, PRODUCTS)


@triton.jit
def _columns(net, chunk, CHUNK: tl.constexpr):
    """Indices of the columns of a chunk.

    They are made to depend on a number that is read anew each time, always zero. Otherwise the compiler would
    compute the addresses of whole tiles outside of all loops, and spill the registers that hold them.
    """
    zero = tl.load(net.widths + net.depth, volatile=True) * 16
    return zero + chunk + tl.arange(0, CHUNK)


@triton.jit
def layer_vectors(net, member, layer, shape: tl.constexpr):
    """b, scale and bias [3, H] of a hidden layer; with layer = depth the last layer's W, followed by its b."""
    H: tl.constexpr = shape.width
    return net.edges + member * net.stride * 16 + net.first * H + H * shape.actions + layer * 3 * H


@triton.jit
def hidden_matrix(net, member, layer, transposed, shape: tl.constexpr):
    """First row of a hidden layer's W (or its transpose) in net.hidden, whose rows have H; layer 0 has none."""
    H: tl.constexpr = shape.width
    return ((member * (net.depth - 1) + layer - 1) * 2 + transposed) * H
