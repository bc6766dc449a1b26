"""The values of an ensemble of critics on tiles of particles: the forward half of flow.py's cost."""

from __future__ import annotations

import triton
import triton.language as tl

from .ensemble import member_value, prepare_members
from .shape import Net
from .tile import load_actions, scratch_of, tile_of, tiles

RUNTIME = ["small_size", "large_size", "stride", "first", "depth", "eps", "ensemble", "B", "N", "O", "A"]


@triton.jit(do_not_specialize=RUNTIME, do_not_specialize_on_alignment=["obs", "actions", "q"])
def value(
    hidden,
    edges,
    widths,
    small,
    large,
    obs,  # [B, O]
    actions,  # [B, N, A]
    q,  # [E, B, N]
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
    shape: tl.constexpr,
):
    """Hidden, edges and widths are a packed network, small and large scratch memory; see shape.py."""
    R: tl.constexpr = shape.rows
    net = Net(hidden, edges, widths, stride, first, O, A, depth, eps)
    scratch = scratch_of(small, large, small_size, large_size, depth, shape)
    total = B.to(tl.int64) * N
    for index in range(tl.program_id(0), tiles(B, N, R), tl.num_programs(0)):
        tile = tile_of(index, B, N, R)
        load_actions(scratch, actions, tile, A, shape)
        prepare_members(net, scratch, ensemble, obs, tile.first_state, B, shape)
        for member in range(ensemble):
            values = member_value(net, scratch, member, tile.owners, shape)
            tl.store(q + member * total + tile.at, values, mask=tile.exists)
        tl.debug_barrier()
