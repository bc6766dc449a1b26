"""One action of each state, by the values of its particles, in one launch; the forward half of flow.py's cost."""

from __future__ import annotations

import triton
import triton.language as tl

from .choice import ensemble_value, first_largest, negative_log, order_of
from .ensemble import prepare_members
from .shape import Net
from .tile import load_actions, scratch_of, tile_of, tiles

RUNTIME = [
    "small_size", "large_size", "stride", "first", "depth", "eps", "ensemble", "B", "N", "O", "A", "temperature",
]  # fmt: skip


@triton.jit(do_not_specialize=RUNTIME, do_not_specialize_on_alignment=["obs", "particles", "noise", "out"])
def act(
    hidden,
    edges,
    widths,
    small,
    large,
    obs,  # [B, O]
    particles,  # [B, N, A]
    noise,  # [B, N], uniform in (0, 1); not read with SELECT "max"
    out,  # [B, A]
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
    temperature,
    shape: tl.constexpr,
    AGGREGATE: tl.constexpr,
    SELECT: tl.constexpr,
):
    """Hidden, edges and widths are a packed network, small and large scratch memory; see shape.py."""
    R: tl.constexpr = shape.rows
    STATES: tl.constexpr = shape.states
    net = Net(hidden, edges, widths, stride, first, O, A, depth, eps)
    scratch = scratch_of(small, large, small_size, large_size, depth, shape)
    pieces = tl.cdiv(N, R)
    for group in range(tl.program_id(0), tiles(B, N, R) // pieces, tl.num_programs(0)):
        largest = tl.full([STATES], -0x80000000, tl.int32)
        chosen = tl.zeros([STATES], tl.int32)
        tile = tile_of(group * pieces, B, N, R)
        if SELECT != "uniform":
            prepare_members(net, scratch, ensemble, obs, tile.first_state, B, shape)
        for piece in range(pieces):
            tile = tile_of(group * pieces + piece, B, N, R)
            if SELECT == "uniform":
                score = tl.load(noise + tile.at, mask=tile.exists, other=0.0)
            else:
                load_actions(scratch, particles, tile, A, shape)
                score = ensemble_value(net, scratch, ensemble, tile, AGGREGATE, shape)
                if SELECT == "softmax":  # Gumbel-max
                    draw = tl.load(noise + tile.at, mask=tile.exists, other=0.5)
                    score = score / temperature - tl.log(negative_log(draw))
            best, which = first_largest(order_of(score), tile, STATES)
            chosen = tl.where((best > largest) | (piece == 0), which, chosen)
            largest = tl.maximum(largest, best)
            tl.debug_barrier()
        own, columns = tl.arange(0, STATES), tl.arange(0, 16)
        state = tile.first_state.to(tl.int64) + own
        given = (own < tile.states) & (state < B)
        row = state * N + chosen
        for c in range(0, A, 16):
            here = given[:, None] & (c + columns < A)[None, :]
            a = tl.load(particles + row[:, None] * A + (c + columns)[None, :], mask=here)
            tl.store(out + state[:, None] * A + (c + columns)[None, :], a, mask=here)
