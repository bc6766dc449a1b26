"""The values of an ensemble of critics and their gradient with respect to the actions; a step of flow.py's cost."""

from __future__ import annotations

import triton
import triton.language as tl

from .ensemble import ensemble_gradient, member_value_and_gradient, prepare_members
from .network import action_gradient
from .shape import Net
from .tile import load_actions, renewed, scratch_of, store_actions, tile_of, tiles

RUNTIME = ["small_size", "large_size", "stride", "first", "depth", "eps", "ensemble", "B", "N", "O", "A"]


@triton.jit(do_not_specialize=RUNTIME, do_not_specialize_on_alignment=["obs", "actions", "q", "dq"])
def value_and_grad(
    hidden,
    edges,
    widths,
    small,
    large,
    obs,  # [B, O]
    actions,  # [B, N, A]
    q,  # [E, B, N]
    dq,  # [B, N, A]; [E, B, N, A], the gradient of every critic, with AGGREGATE "each"
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
    AGGREGATE: tl.constexpr,
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
        tl.debug_barrier()
        if AGGREGATE == "each":
            for member in range(ensemble):
                values = member_value_and_gradient(net, scratch, member, renewed(net, tile, R).owners, shape)
                here = renewed(net, tile, R)
                tl.store(q + member * total + here.at, values, mask=here.exists)
                for c in range(0, shape.actions, 16):
                    columns = c + tl.arange(0, 16)
                    g = action_gradient(net, scratch, member, c, shape)
                    given = here.exists[:, None] & (columns < A)[None, :]
                    tl.store(dq + (member * total + here.at)[:, None] * A + columns[None, :], g, mask=given)
        else:
            ensemble_gradient(net, scratch, ensemble, tile, q, total, AGGREGATE, shape)
            tile = renewed(net, tile, R)
            store_actions(scratch.dq, dq, tile, A, shape)
        tl.debug_barrier()
