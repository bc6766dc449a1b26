"""Where the parts of a packed network are (shape.Net), and the columns of a tile."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def nothing(net):
    """Zero, in a way that the compiler does not see.

    What depends on it is computed where it is needed. Otherwise the addresses of whole tiles would be computed outside
    of all loops, and the registers that hold them spilled.
    """
    return tl.load(net.widths + net.depth, volatile=True) * 16


@triton.jit
def columns_of(net, chunk, CHUNK: tl.constexpr):
    """Indices of the columns of a chunk."""
    return nothing(net) + chunk + tl.arange(0, CHUNK)


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
