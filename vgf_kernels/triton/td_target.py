"""reward + discount * mask * (the reduced value of a state's particles) in one launch; the forward half of flow.py's cost."""

from __future__ import annotations

import triton
import triton.language as tl

from .choice import ensemble_value, first_largest, number_of, order_of, sum_by_state
from .ensemble import prepare_members
from .shape import Net
from .tile import load_actions, scratch_of, tile_of, tiles

RUNTIME = [
    "small_size", "large_size", "stride", "first", "depth", "eps", "ensemble", "B", "N", "O", "A", "discount",
]  # fmt: skip
ARRAYS = ["obs", "particles", "reward", "mask", "out"]


@triton.jit(do_not_specialize=RUNTIME, do_not_specialize_on_alignment=ARRAYS)
def td_target(
    hidden,
    edges,
    widths,
    small,
    large,
    obs,  # [B, O]
    particles,  # [B, N, A]
    reward,  # [B]
    mask,  # [B]
    out,  # [B]
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
    discount,
    shape: tl.constexpr,
    AGGREGATE: tl.constexpr,
    REDUCE: tl.constexpr,
):
    """Hidden, edges and widths are a packed network, small and large scratch memory; see shape.py."""
    R: tl.constexpr = shape.rows
    STATES: tl.constexpr = shape.states
    net = Net(hidden, edges, widths, stride, first, O, A, depth, eps)
    scratch = scratch_of(small, large, small_size, large_size, depth, shape)
    pieces = tl.cdiv(N, R)
    for group in range(tl.program_id(0), tiles(B, N, R) // pieces, tl.num_programs(0)):
        total = tl.zeros([STATES], tl.float32)
        largest = tl.full([STATES], -0x80000000, tl.int32)
        tile = tile_of(group * pieces, B, N, R)
        prepare_members(net, scratch, ensemble, obs, tile.first_state, B, shape)
        for piece in range(pieces):
            tile = tile_of(group * pieces + piece, B, N, R)
            load_actions(scratch, particles, tile, A, shape)
            value = ensemble_value(net, scratch, ensemble, tile, AGGREGATE, shape)
            if REDUCE == "max":
                best, _ = first_largest(order_of(value), tile, STATES)
                largest = tl.maximum(largest, best)
            else:
                total += sum_by_state(value, tile, STATES)
            tl.debug_barrier()
        if REDUCE == "max":
            total = number_of(largest)
        else:
            total = total / N
        own = tl.arange(0, STATES)
        at = tile.first_state.to(tl.int64) + own
        given = (own < tile.states) & (at < B)
        future = discount * tl.load(mask + at, mask=given) * total
        tl.store(out + at, tl.load(reward + at, mask=given) + future, mask=given)
