"""The whole flow of a tile of states in one program: one launch, whatever the number of steps.

A persistent program takes tile after tile through all steps; everything in between stays in its scratch memory.

Cost of a step of R rows with E critics of depth D and width H: 4 E R H (A + (D-1) H) FLOPs, half forward, half
back, and from L2 2 E (D-1) H^2 elements of weights and about (7 D + 2 (D-1) H / chunk) E R H of activations
(network.py); from memory, once a tile, only the observations, the particles and the result. At R = 64, H = 512 and
chunks of 256 in bfloat16 that is 98 KB of weights and 80 KB of activations a particle and step, for 6.4 MFLOP.
bench/triton_model.py makes times of it.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .ensemble import ensemble_gradient, prepare_members
from .optimizer import clip, step
from .pairwise import tile_direction
from .shape import Net
from .tile import load_actions, renewed, scratch_of, store_actions, tile_of, tiles

RUNTIME = [
    "small_size", "large_size", "stride", "first", "depth", "eps", "ensemble", "B", "N", "O", "A",
    "num_steps", "rate", "alpha", "sigma", "low", "high",
]  # fmt: skip


@triton.jit(do_not_specialize=RUNTIME, do_not_specialize_on_alignment=["obs", "particles", "out"])
def flow(
    hidden,
    edges,
    widths,
    small,
    large,
    obs,  # [B, O]
    particles,  # [B, N, A]
    out,  # [B, N, A], or [num_steps + 1, B, N, A] with TRAJECTORY
    small_size,
    large_size,
    stride,
    first,
    depth,
    eps,
    ensemble,
    B,
    N,
    O,
    A,
    num_steps,
    rate,
    alpha,
    sigma,
    low,
    high,
    shape: tl.constexpr,
    interaction: tl.constexpr,
    AGGREGATE: tl.constexpr,
    OPTIMIZER: tl.constexpr,
    CLIP: tl.constexpr,
    TRAJECTORY: tl.constexpr,
):
    """Hidden, edges and widths are a packed network, small and large scratch memory; see shape.py."""
    R: tl.constexpr = shape.rows
    AP: tl.constexpr = shape.actions
    net = Net(hidden, edges, widths, stride, first, O, A, depth, eps)
    scratch = scratch_of(small, large, small_size, large_size, depth, shape)
    rows, columns = tl.arange(0, R), tl.arange(0, 16)
    size = B.to(tl.int64) * N * A
    for index in range(tl.program_id(0), tiles(B, N, R), tl.num_programs(0)):
        tile = tile_of(index, B, N, R)
        load_actions(scratch, particles, tile, A, shape)
        for c in range(0, AP, 16):
            at = rows[:, None] * AP + (c + columns)[None, :]
            tl.store(scratch.first + at, tl.zeros([R, 16], tl.float32))
            tl.store(scratch.second + at, tl.zeros([R, 16], tl.float32))
        prepare_members(net, scratch, ensemble, obs, tile.first_state, B, shape)
        tl.debug_barrier()
        if TRAJECTORY:
            store_actions(scratch.x, out, tile, A, shape)
        correction_1, correction_2 = 0.0, 0.0
        for l in range(num_steps):
            correction_1 = 0.9 * correction_1 + 0.1  # 1 - 0.9^(l + 1), without cancellation
            correction_2 = 0.999 * correction_2 + 0.001
            ensemble_gradient(net, scratch, ensemble, tile, None, 0, AGGREGATE, shape)
            here = renewed(net, tile, R)
            tile_direction(scratch, here, A, alpha, sigma, interaction, shape)
            for c in range(0, AP, 16):
                at = rows[:, None] * AP + (c + columns)[None, :]
                phi = tl.load(
                    scratch.phi + at, mask=here.exists[:, None] & (c + columns < A)[None, :], other=0.0
                )
                x, m, v = tl.load(scratch.x + at), tl.load(scratch.first + at), tl.load(scratch.second + at)
                tl.debug_barrier()
                x, m, v = step(x, phi, m, v, correction_1, correction_2, rate, OPTIMIZER)
                if CLIP:
                    x = clip(x, low, high)
                tl.store(scratch.x + at, x)
                tl.store(scratch.first + at, m)
                tl.store(scratch.second + at, v)
            tl.debug_barrier()
            if TRAJECTORY:
                store_actions(scratch.x, out + (l + 1) * size, here, A, shape)
        if not TRAJECTORY:
            tile = renewed(net, tile, R)
            store_actions(scratch.x, out, tile, A, shape)
        tl.debug_barrier()
