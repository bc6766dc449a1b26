"""One step of transport for states whose particles fit a tile: direction, optimizer and clip in one launch.

Memory-bound: reads x, dq and the moments once from memory, writes x and the moments. pairwise.py has the FLOPs.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .optimizer import clip, step
from .pairwise import direction_of_states

RUNTIME = ["B", "N", "A", "rate", "alpha", "sigma", "low", "high", "correction_1", "correction_2"]
ARRAYS = ["particles", "dq", "first", "second", "phi", "out"]


@triton.jit(do_not_specialize=RUNTIME, do_not_specialize_on_alignment=ARRAYS)
def update(
    particles,  # [B, N, A], as are all others
    dq,
    first,
    second,
    phi,  # written here and read back
    out,
    B,
    N,
    A,
    rate,
    alpha,
    sigma,
    low,
    high,
    correction_1,
    correction_2,
    interaction: tl.constexpr,
    OPTIMIZER: tl.constexpr,
    CLIP: tl.constexpr,
    STATES: tl.constexpr,  # of a program
    BLOCK: tl.constexpr,  # elements at a time
):
    """correction_i = 1 - beta_i^step."""
    first_state = tl.program_id(0) * STATES
    states = tl.minimum(STATES, B - first_state)
    start = first_state.to(tl.int64) * N * A
    if interaction.kernel:
        G: tl.constexpr = interaction.group
        P: tl.constexpr = interaction.particles
        MEDIAN: tl.constexpr = interaction.median
        BANDWIDTH_GRAD: tl.constexpr = interaction.bandwidth_grad
        direction_of_states(
            particles + start,
            dq + start,
            phi + start,
            A,
            states,
            N,
            A,
            alpha,
            sigma,
            G,
            P,
            MEDIAN,
            BANDWIDTH_GRAD,
        )
        tl.debug_barrier()
    for i in range(0, states * N * A, BLOCK):
        elements = i + tl.arange(0, BLOCK)
        here = elements < states * N * A
        at = start + elements
        if interaction.kernel:
            along = tl.load(phi + at, mask=here)
        else:
            along = tl.load(dq + at, mask=here) / (alpha * N)
        x = tl.load(particles + at, mask=here)
        m, v = tl.load(first + at, mask=here), tl.load(second + at, mask=here)
        tl.debug_barrier()
        x, m, v = step(x, along, m, v, correction_1, correction_2, rate, OPTIMIZER)
        if CLIP:
            x = clip(x, low, high)
        tl.store(out + at, x, mask=here)
        tl.store(first + at, m, mask=here)
        tl.store(second + at, v, mask=here)
