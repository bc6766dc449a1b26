"""Which rows a program works on, its scratch memory, and how actions get there and back."""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from .shape import Scratch
from .where import nothing


class Tile(NamedTuple):
    """Some whole states, or some particles of one state where those do not all fit.

    index, B, N: what it is made of.
    first_state: the first of them. states: how many there are room for.
    owners [R]: each row's state within the tile. particles [R]: its particle within the state.
    exists [R]: whether the row is a particle at all. at [R] int64: its row in arrays [B * N, ...].
    """

    index: Any
    B: Any
    N: Any
    first_state: Any
    states: Any
    owners: Any
    particles: Any
    exists: Any
    at: Any


@triton.jit
def tiles(B, N, R: tl.constexpr):
    """How many tiles cover [B, N]."""
    per_state = tl.minimum(N, R)
    return tl.cdiv(B, R // per_state) * tl.cdiv(N, per_state)


@triton.jit
def tile_of(index, B, N, R: tl.constexpr):
    """The tile of this index."""
    per_state = tl.minimum(N, R)
    pieces = tl.cdiv(N, per_state)
    states = R // per_state
    first_state = index // pieces * states
    rows = tl.arange(0, R)
    owners = tl.minimum(rows // per_state, states - 1)
    particles = index % pieces * per_state + rows - owners * per_state
    exists = (rows < states * per_state) & (first_state + owners < B) & (particles < N)
    at = (first_state + owners).to(tl.int64) * N + particles
    return Tile(index, B, N, first_state, states, owners, particles, exists, at)


@triton.jit
def renewed(net, tile, R: tl.constexpr):
    """The tile computed anew, where it would otherwise be kept in registers over a network."""
    return tile_of(tile.index, tile.B, tile.N + nothing(net), R)


@triton.jit
def scratch_of(small, large, small_size, large_size, depth, shape: tl.constexpr):
    """This program's part of the scratch memory: `small` holds float32, `large` the type of the products.

    Sizes come in units of 16 elements, so that the compiler knows that every address is aligned.
    """
    R: tl.constexpr = shape.rows
    H: tl.constexpr = shape.width
    A: tl.constexpr = shape.actions
    program = tl.program_id(0).to(tl.int64)
    x = small + program * small_size * 16
    y = large + program * large_size * 16
    stats = x + 5 * R * A
    return Scratch(
        x=x,
        dq=x + R * A,
        phi=x + 2 * R * A,
        first=x + 3 * R * A,
        second=x + 4 * R * A,
        stats=stats,
        inputs=stats + depth * 2 * R,
        y=y,
        tape=y + 2 * R * H,
    )


@triton.jit
def load_actions(scratch, actions, tile, A, shape: tl.constexpr):
    """Copy the tile's rows of actions [B * N, A] to scratch.x, padded with zeros."""
    rows, columns = tl.arange(0, shape.rows), tl.arange(0, 16)
    for c in range(0, shape.actions, 16):
        given = tile.exists[:, None] & (c + columns < A)[None, :]
        x = tl.load(actions + tile.at[:, None] * A + (c + columns)[None, :], mask=given, other=0.0)
        tl.store(scratch.x + rows[:, None] * shape.actions + (c + columns)[None, :], x)


@triton.jit
def store_actions(source, actions, tile, A, shape: tl.constexpr):
    """Copy [R, actions] of the scratch memory to the tile's rows of actions [B * N, A]."""
    rows, columns = tl.arange(0, shape.rows), tl.arange(0, 16)
    for c in range(0, shape.actions, 16):
        given = tile.exists[:, None] & (c + columns < A)[None, :]
        x = tl.load(source + rows[:, None] * shape.actions + (c + columns)[None, :])
        tl.store(actions + tile.at[:, None] * A + (c + columns)[None, :], x, mask=given)
