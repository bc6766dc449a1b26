"""Norm and activation of a tile, and their gradient: what follows a product, on a few whole rows at a time.

Whole rows need one pass: their sums are complete at once. Each element is read once from the scratch memory and
written once; a barrier before and after is the caller's.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .activations import activate, slope
from .products import store_operand
from .where import columns_of, layer_vectors


@triton.jit
def normalise_rows(net, member, layer, z, y, stats, TAPED: tl.constexpr, shape: tl.constexpr):
    """y [R, H] from what enters a layer's norm, z [R, H]; with TAPED mean and 1/std of every row to stats [2, R]."""
    R: tl.constexpr = shape.rows
    H: tl.constexpr = shape.width
    ROWS: tl.constexpr = shape.norm_rows
    COLUMNS: tl.constexpr = shape.norm_columns
    NORM: tl.constexpr = shape.norm
    ACTIVATION: tl.constexpr = shape.activation
    PRODUCTS: tl.constexpr = shape.products
    vectors = layer_vectors(net, member, layer, shape)
    width = tl.load(net.widths + layer)
    for first in range(0, R, ROWS):
        rows = first + tl.arange(0, ROWS)
        columns = columns_of(net, 0, COLUMNS)
        at = rows[:, None] * H + columns[None, :]
        u = load_columns(z + at, columns[None, :], COLUMNS, H).to(tl.float32)
        if NORM == "post":
            u = activate(u, ACTIVATION)
        counts = (columns < width)[None, :]
        mean = tl.sum(tl.where(counts, u, 0.0), axis=1) / width
        u = tl.where(counts, u - mean[:, None], 0.0)
        rstd = 1 / tl.sqrt(tl.sum(u * u, axis=1) / width + net.eps)
        scale = load_columns(vectors + H + columns, columns, COLUMNS, H)
        bias = load_columns(vectors + 2 * H + columns, columns, COLUMNS, H)
        u = u * rstd[:, None] * scale[None, :] + bias[None, :]
        if NORM == "pre":
            u = activate(u, ACTIVATION)
        store_operand(y + at, u, PRODUCTS, None if COLUMNS == H else (columns < H)[None, :])
        if TAPED:
            tl.store(stats + rows, mean)
            tl.store(stats + R + rows, rstd)


@triton.jit
def differentiate_rows(net, member, layer, z, g, out, stats, shape: tl.constexpr):
    """The gradient at a hidden layer's z [R, H] from that at its output, g [R, H]; behind the last hidden layer that is
    the last layer's weights, and g is not read."""
    R: tl.constexpr = shape.rows
    H: tl.constexpr = shape.width
    ROWS: tl.constexpr = shape.norm_rows
    COLUMNS: tl.constexpr = shape.norm_columns
    NORM: tl.constexpr = shape.norm
    ACTIVATION: tl.constexpr = shape.activation
    PRODUCTS: tl.constexpr = shape.products
    vectors = layer_vectors(net, member, layer, shape)
    width = tl.load(net.widths + layer)
    for first in range(0, R, ROWS):
        rows = first + tl.arange(0, ROWS)
        columns = columns_of(net, 0, COLUMNS)
        at = rows[:, None] * H + columns[None, :]
        along = tl.zeros([ROWS, COLUMNS], tl.float32)
        if layer == net.depth - 1:
            last = layer_vectors(net, member, net.depth, shape)
            along += load_columns(last + columns, columns, COLUMNS, H)[None, :]
        else:
            along += load_columns(g + at, columns[None, :], COLUMNS, H).to(tl.float32)
        u = load_columns(z + at, columns[None, :], COLUMNS, H).to(tl.float32)
        if NORM == "none":
            along *= slope(u, ACTIVATION)
        else:
            mean, rstd = tl.load(stats + rows)[:, None], tl.load(stats + R + rows)[:, None]
            scale = load_columns(vectors + H + columns, columns, COLUMNS, H)[None, :]
            n = _normalised(u, mean, rstd, NORM, ACTIVATION)
            if NORM == "pre":
                bias = load_columns(vectors + 2 * H + columns, columns, COLUMNS, H)[None, :]
                along *= slope(n * scale + bias, ACTIVATION)
            along *= scale  # zero in the padding
            mean_g, mean_gn = tl.sum(along, axis=1) / width, tl.sum(along * n, axis=1) / width
            along = rstd * (along - mean_g[:, None] - n * mean_gn[:, None])
            if NORM == "post":
                along *= slope(u, ACTIVATION)
        store_operand(out + at, along, PRODUCTS, None if COLUMNS == H else (columns < H)[None, :])


@triton.jit
def _normalised(z, mean, rstd, NORM: tl.constexpr, ACTIVATION: tl.constexpr):
    if NORM == "post":
        z = activate(z, ACTIVATION)
    return (z - mean) * rstd


@triton.jit
def load_columns(pointers, columns, COLUMNS: tl.constexpr, H: tl.constexpr):
    """The first H columns, and zeros in the others."""
    if COLUMNS == H:
        return tl.load(pointers)
    else:
        return tl.load(pointers, mask=columns < H, other=0.0)
