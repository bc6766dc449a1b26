"""Euler steps on a velocity field for tiles of particles in one launch.

Cost of a step of R rows: 2 R H (2 A + 1 + (D-1) H) FLOPs; from L2 (D-1) H^2 elements of weights and about
(D-1) (H / chunk + 1) R H of activations, 2 more where a norm follows (network.py); from memory, once a tile, the
observations, the noise and the result.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .network import forward, prepare_inputs, velocity
from .optimizer import clip
from .shape import Net
from .tile import load_actions, renewed, scratch_of, store_actions, tile_of, tiles

RUNTIME = [
    "small_size", "large_size", "stride", "first", "depth", "eps", "B", "N", "O", "A", "num_steps", "low", "high",
]  # fmt: skip


@triton.jit(do_not_specialize=RUNTIME, do_not_specialize_on_alignment=["obs", "noise", "out"])
def sample(
    hidden,
    edges,
    widths,
    small,
    large,
    obs,  # [B, O]
    noise,  # [B, N, A]
    out,  # [B, N, A]
    small_size,
    large_size,
    stride,
    first,
    depth,
    eps,
    B,
    N,
    O,
    A,
    num_steps,
    low,
    high,
    shape: tl.constexpr,
    CLIP: tl.constexpr,
):
    """Hidden, edges and widths are a packed network, small and large scratch memory; see shape.py."""
    R: tl.constexpr = shape.rows
    AP: tl.constexpr = shape.actions
    net = Net(hidden, edges, widths, stride, first, O, A, depth, eps)
    scratch = scratch_of(small, large, small_size, large_size, depth, shape)
    rows, columns = tl.arange(0, R), tl.arange(0, 16)
    for index in range(tl.program_id(0), tiles(B, N, R), tl.num_programs(0)):
        tile = tile_of(index, B, N, R)
        load_actions(scratch, noise, tile, A, shape)
        prepare_inputs(net, scratch, 0, obs, tile.first_state, B, shape)
        tl.debug_barrier()
        for i in range(num_steps):
            t = i * 1.0 / num_steps
            half = forward(net, scratch, 0, tile.owners, t, True, False, shape)
            for c in range(0, AP, 16):
                v = velocity(net, scratch, half, c, shape)
                at = scratch.x + rows[:, None] * AP + (c + columns)[None, :]
                x = tl.load(at) + v / num_steps
                if CLIP:
                    x = tl.where(i == num_steps - 1, clip(x, low, high), x)
                tl.debug_barrier()
                tl.store(at, x)
            tl.debug_barrier()
        tile = renewed(net, tile, R)
        store_actions(scratch.x, out, tile, A, shape)
        tl.debug_barrier()
