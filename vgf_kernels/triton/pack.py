"""All weights of an MLP into the engine's layout (shape.Net) in one launch: one read and at most two writes of each.

The table [E, depth + 1, 8] has a row for each layer: the address and the two strides of W, the addresses of b, scale
and bias (0 where no norm follows), and the layer's widths. Read through it, the weights of a captured launch are those
at its replay. The padding is zero from the allocation of the packed buffers, and is never written.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .products import operand, store_operand


@triton.jit(do_not_specialize=["stride", "first", "depth", "O", "A"])
def pack(
    table,
    hidden,
    edges,
    stride,
    first,
    depth,
    O,
    A,
    H: tl.constexpr,
    ACTIONS: tl.constexpr,  # A rounded up
    OUTPUTS: tl.constexpr,  # columns of the last layer
    PRODUCTS: tl.constexpr,
    TILE: tl.constexpr,
):
    """Program (tile of W, layer of a member). Vectors go with the first tile."""
    entry = tl.program_id(1)
    member, layer = entry // (depth + 1), entry % (depth + 1)
    row = table + entry * 8
    inner, outer = tl.load(row + 6), tl.load(row + 7)
    across = tl.cdiv(outer, TILE)
    i = tl.program_id(0) // across * TILE + tl.arange(0, TILE)
    o = tl.program_id(0) % across * TILE + tl.arange(0, TILE)
    here = (i < inner)[:, None] & (o < outer)[None, :]
    W = tl.load(row).to(tl.pointer_type(tl.float32))
    w = tl.load(W + i[:, None] * tl.load(row + 1) + o[None, :] * tl.load(row + 2), mask=here, other=0.0)
    member_edges = edges + member * stride * 16
    transposed = member_edges + first * H
    vectors = transposed + H * ACTIONS + layer * 3 * H
    if layer == 0:
        w = operand(w, PRODUCTS)
        tl.store(member_edges + i[:, None] * H + o[None, :], w, mask=here)
        action = (i >= O) & (i < O + A)
        tl.store(transposed + o[None, :] * ACTIONS + (i - O)[:, None], w, mask=here & action[:, None])
    elif layer < depth:
        matrix = hidden + ((member * (depth - 1) + layer - 1) * 2).to(tl.int64) * (H * H)
        store_operand(matrix + i[:, None] * H + o[None, :], w, PRODUCTS, here)
        store_operand(matrix + H * H + o[None, :] * H + i[:, None], w, PRODUCTS, here)
    else:
        if OUTPUTS > 1:  # a critic's are multiplied one by one
            w = operand(w, PRODUCTS)
        tl.store(vectors + i[:, None] * OUTPUTS + o[None, :], w, mask=here)
    if tl.program_id(0) < across:  # the first row of tiles
        last = layer == depth
        _copy_vector(tl.load(row + 3), vectors + tl.where(last, H * OUTPUTS, 0), o, outer)
        if tl.load(row + 4) != 0:
            _copy_vector(tl.load(row + 4), vectors + H, o, outer)
            _copy_vector(tl.load(row + 5), vectors + 2 * H, o, outer)


@triton.jit
def _copy_vector(address, target, at, size):
    source = address.to(tl.pointer_type(tl.float32))
    tl.store(target + at, tl.load(source + at, mask=at < size), mask=at < size)
