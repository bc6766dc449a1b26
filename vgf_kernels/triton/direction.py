"""The flow direction phi of a tile of whole states in one program: the first half of a step of flow.py."""

from __future__ import annotations

import triton
import triton.language as tl

from .ensemble import ensemble_gradient, prepare_members
from .pairwise import tile_direction
from .shape import Net
from .tile import load_actions, renewed, scratch_of, store_actions, tile_of, tiles

RUNTIME = [
    "small_size", "large_size", "stride", "first", "depth", "eps", "ensemble", "B", "N", "O", "A", "alpha", "sigma",
]  # fmt: skip


@triton.jit(do_not_specialize=RUNTIME, do_not_specialize_on_alignment=["obs", "particles", "out"])
def direction(
    hidden,
    edges,
    widths,
    small,
    large,
    obs,  # [B, O]
    particles,  # [B, N, A]
    out,  # phi [B, N, A]
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
    alpha,
    sigma,
    shape: tl.constexpr,
    interaction: tl.constexpr,
    AGGREGATE: tl.constexpr,
):
    """Hidden, edges and widths are a packed network, small and large scratch memory; see shape.py."""
    R: tl.constexpr = shape.rows
    net = Net(hidden, edges, widths, stride, first, O, A, depth, eps)
    scratch = scratch_of(small, large, small_size, large_size, depth, shape)
    for index in range(tl.program_id(0), tiles(B, N, R), tl.num_programs(0)):
        tile = tile_of(index, B, N, R)
        load_actions(scratch, particles, tile, A, shape)
        prepare_members(net, scratch, ensemble, obs, tile.first_state, B, shape)
        tl.debug_barrier()
        ensemble_gradient(net, scratch, ensemble, tile, None, 0, AGGREGATE, shape)
        tile = renewed(net, tile, R)
        tile_direction(scratch, tile, A, alpha, sigma, interaction, shape)
        store_actions(scratch.phi, out, tile, A, shape)
        tl.debug_barrier()
