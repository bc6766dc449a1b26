"""What the Triton engine's flow should take on an H200: a model on paper, for the first run there to confirm or refute.

    python bench/triton_model.py [--precision bf16]

A program has a multiprocessor to itself and is limited by what it reads: weights, and the activations in its scratch
memory, both from the L2 cache. A step of a tile is a sequence of products, each a stream of blocks through the
pipeline (network.py), and what follows them, a few rows at a time (norm.py):

    chunk of a product:   2 latencies + max(bytes / rate, FLOPs / tensor cores) + bytes of the result / rate
    piece of the rest:    latency + bytes / rate
    rate:                 the least of what a multiprocessor takes, its share of the L2 cache, and, for a stream,
                          bytes under way / latency

The card's figures below are public or round; the latency is that of an L2 cache under load. What the model leaves out:
misses of the L2 cache (a tile's tape is 256 KB at 64 rows in bf16, 132 of them and the rest of the scratch memory are
as large as the cache), clocks that drop, and whatever the compiler does badly.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace

from vgf_kernels.triton import plan
from vgf_kernels.triton.plan import Config

WIDTH, DEPTH, CRITICS, PARTICLES, ACTIONS = 512, 4, 2, 10, 16
GEMM = {"bf16": 788e12, "tf32": 400e12, "fp32": 45e12}  # FLOP/s; bf16 as measured on this card
BELOW_64_ROWS = 0.62  # of it: products of fewer rows than Hopper's own instruction takes go by the older one
LATENCY = 0.7e-6  # s
L2_BYTES = 5.5e12  # a second, all multiprocessors
MULTIPROCESSOR_BYTES = 64 * 1.7e9  # a second
COUNT = 0.25e-6  # s, a pass of the median's 31 over the distances of a group
H200 = plan.Gpu("H200", 132, 90, True)


@dataclass(frozen=True)
class Prediction:
    """One flow of `B` states: seconds, FLOP/s, and bytes that a program reads and writes a step."""

    seconds: float
    flops: float
    bytes: float


def predict(config: Config, precision: str, B: int, steps: int) -> Prediction:
    """A flow of the paper's critics on B states of 10 particles."""
    tiles = plan.tiles(B, PARTICLES, config.rows)
    programs = min(tiles, H200.processors)
    seconds, moved = _step(config, precision, programs)
    work = 4 * CRITICS * WIDTH * (ACTIONS + (DEPTH - 1) * WIDTH) * B * PARTICLES * steps
    total = seconds * steps * -(-tiles // programs)
    return Prediction(total, work / total, moved)


def _step(config: Config, precision: str, programs: int) -> tuple[float, float]:
    """Seconds and bytes of a step of one tile."""
    size = 2 if precision == "bf16" else 4
    rows, chunks = config.rows, WIDTH // config.chunk
    pieces = rows // plan.parts(WIDTH, config)["norm_rows"]  # of what is no product
    activations, weights = rows * WIDTH * size, WIDTH * WIDTH * size
    under_way = max(1, config.stages - 1) * config.block * (config.chunk + rows) * size
    most = min(MULTIPROCESSOR_BYTES, L2_BYTES / programs)
    stream, plain = min(most, under_way / LATENCY), most
    cores = GEMM[precision] / H200.processors
    if precision != "fp32" and rows < 64:
        cores *= BELOW_64_ROWS
    seconds, moved = 0.0, 0.0

    def add(count: int, latencies: int, streamed: float, epilogue: float, flops: float = 0.0) -> None:
        nonlocal seconds, moved
        seconds += count * (latencies * LATENCY + max(streamed / stream, flops / cores) + epilogue / plain)
        moved += count * (streamed + epilogue)

    product = 2 * rows * WIDTH * WIDTH
    streamed = weights + chunks * activations
    waits = 2 * chunks + pieces  # for each stream's first block and its result's way out; for each piece
    add(CRITICS * (DEPTH - 1), waits, streamed, 3 * activations, product)
    add(CRITICS * (DEPTH - 1), waits, streamed, 4 * activations, product)
    add(CRITICS, 3 * pieces, 0, 3 * activations + 4 * rows * WIDTH)  # the first layer
    add(CRITICS, pieces, 0, 2 * activations)  # the last one's gradient
    add(CRITICS, 3 + pieces, 0, 2 * activations)  # the value, and the gradient's way to the actions
    states = max(1, rows // PARTICLES)
    group = min(plan.LARGEST_GROUP // 256, 1 << (states - 1).bit_length())
    seconds += -(-states // group) * 31 * COUNT
    return seconds, moved


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--precision", choices=GEMM, default="bf16", help="of the flow")
    precision = parser.parse_args().precision
    for B, steps in ((256, 3), (100_000, 3)):
        default = plan.default_config(WIDTH, precision, B, PARTICLES, H200)
        tried = [plan.config_of(WIDTH, precision, rows, 90) for rows in (16, 32, 64, 128)]
        tried += [replace(default, chunk=128, block=32, warps=4 if default.rows < 64 else 8, stages=3)]
        for config in dict.fromkeys(
            [default, *tried, *plan.candidates(WIDTH, precision, B, PARTICLES, H200)]
        ):
            p = predict(config, precision, B, steps)
            share = p.flops / GEMM[precision]
            mark = "  default" if config == default else ""
            print(
                f"B={B:<7} {precision} rows {config.rows:<3} chunk {config.chunk:<3} block {config.block:<2} "
                f"stages {config.stages}: {1e3 * p.seconds:8.3f} ms, {p.flops / 1e12:4.0f} TFLOP/s, "
                f"{share:.0%} of GEMM, {p.bytes / 1e6:5.1f} MB a step and tile{mark}"
            )


if __name__ == "__main__":
    main()
