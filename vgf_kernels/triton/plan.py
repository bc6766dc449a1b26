"""How a call is cut into tiles: the shape of a kernel, its options and its grid."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..config import FlowConfig
from .launch import Options
from .packed import PackedMLP
from .shape import Interaction, Shape

LARGEST_GROUP = 4096  # squared distances that a program holds in registers at a time
UPDATE_ROWS = 32  # particles of a program of the update kernel, where a state has no more
HELD = 8192  # elements of a tile, at most, that are worked on at a time outside of the hidden products
LARGEST_STATE = 64  # particles of a state that a tile takes; large_states.py serves more


@dataclass(frozen=True)
class Config:
    """What may be chosen freely, and is tuned.

    Attributes:
        rows: of a tile. chunk: columns of a layer accumulated at a time. block: of the inner dimension.
        warps, stages: see launch.Options.
    """

    rows: int
    chunk: int
    block: int
    warps: int
    stages: int

    @property
    def options(self) -> Options:
        return Options(self.warps, self.stages)


@dataclass(frozen=True)
class Gpu:
    """What plans depend on.

    Attributes:
        name: as its driver gives it. processors: programs that run at a time, one on each multiprocessor.
        architecture: of NVIDIA's, for example 90; 0 for others'. tf32: whether it multiplies that.
    """

    name: str
    processors: int
    architecture: int
    tf32: bool


def default_config(width: int, precision: str, B: int, N: int, gpu: Gpu) -> Config:
    """A good choice without measuring: the fewest rows with which the tiles fill no more than one wave, else the most.

    Where every program works on one tile, fewer rows take less time; where there are many tiles, more rows make
    more of every weight that is loaded.
    """
    rows = fewest_rows(N)
    while rows < most_rows(precision) and tiles(B, N, rows) > gpu.processors:
        rows *= 2
    return config_of(width, precision, rows, gpu.architecture)


def most_rows(precision: str) -> int:
    """Rows of a large batch's tile, where its states have no more particles."""
    return 32 if precision == "fp32" else 64


def fewest_rows(N: int) -> int:
    """Rows that a tile needs for one state, where its particles fit one."""
    return 16 if N > LARGEST_STATE else max(16, 1 << (N - 1).bit_length())


def config_of(width: int, precision: str, rows: int, architecture: int) -> Config:
    """What goes with a number of rows so that nothing is spilled; test_triton_compile.py holds it to that.

    A program is alone on its multiprocessor, so chunks are as wide as registers allow: fewer passes over the
    activations, fewer waits for the first weights of a chunk, and more of them under way (bench/triton_model.py has
    the figures).
    """
    chunk, block, warps, stages = _choice(precision, rows, architecture)
    return Config(rows, min(width, chunk), block, warps, stages)


def _is_hopper(architecture: int) -> bool:
    """Or larger: from 120 on, there is no more shared memory than before 90."""
    return 90 <= architecture < 120


def _choice(precision: str, rows: int, architecture: int) -> tuple[int, int, int, int]:
    """Chunk, block, warps and stages."""
    hopper, amd = _is_hopper(architecture), architecture == 0
    if amd:
        return (128, 32, 8, 3) if precision == "bf16" and rows >= 64 else (64, 32, 4, 2)
    if precision == "bf16":
        if rows <= 32:
            return (512, 32, 8, 3) if rows <= 16 else (512 if hopper else 256, 32, 8, 5)
        return (256 if hopper else 128), 32, 8, 4
    if precision == "tf32":
        if rows <= 32:
            return (256 if hopper and rows == 32 else 128), 32, 8, 4
        return 128, 16, 8, 4
    if rows <= 16:
        return 128, 16, 8, 4
    if rows <= 32:
        return (128, 32, 8, 3) if hopper else (128, 16, 8, 2)
    return (64, 16, 8, 2) if hopper else (32, 32, 8, 2)


def candidates(width: int, precision: str, B: int, N: int, gpu: Gpu) -> list[Config]:
    """The default, then what else may be faster although it spills a little: other numbers of rows, wider chunks and
    longer blocks."""
    default = default_config(width, precision, B, N, gpu)
    others = [
        config_of(width, precision, rows, gpu.architecture)
        for rows in (default.rows * 2, default.rows // 2)
        if fewest_rows(N) <= rows <= 128
    ]
    fewer = max(2, default.stages - 2)  # shared memory has to hold twice as much of each
    stages = default.stages if _is_hopper(gpu.architecture) else fewer
    double = 2 * default.chunk
    wider = replace(default, chunk=default.chunk if width % double else double, warps=8, stages=stages)
    longer = replace(default, block=2 * default.block, stages=fewer)
    return list(dict.fromkeys([default, *others, wider, longer]))


def tiles(B: int, N: int, rows: int) -> int:
    """How many tiles cover [B, N]: whole states, or pieces of states that do not fit."""
    per_state = min(N, rows)
    return -(-B // (rows // per_state)) * -(-N // per_state)


def shape_of(packed: PackedMLP, products: str, config: Config, N: int) -> Shape:
    """The compile-time constants of a network's kernels."""
    states = config.rows // min(N, config.rows)
    return Shape(
        rows=config.rows,
        states=max(16, 1 << (states - 1).bit_length()),
        width=packed.width,
        **parts(packed.width, config),
        actions=packed.actions,
        outputs=packed.outputs,
        activation=packed.activation,
        norm=packed.norm,
        products=products,
    )


def parts(width: int, config: Config) -> dict[str, int]:
    """How much of a layer is worked on at a time, as fields of a Shape."""
    chunk, columns = min(config.chunk, width), 1 << (width - 1).bit_length()
    held = min(HELD, config.rows * config.chunk)
    return {
        "chunk": chunk,
        "narrow": min(chunk, max(16, held // config.rows)),
        "block": min(config.block, width),
        "norm_rows": min(config.rows, max(1, held // columns)),
        "norm_columns": columns,
    }


def interaction_of(config: FlowConfig, N: int, rows: int) -> Interaction:
    """The compile-time constants of a FlowConfig's interaction among N particles of the states in some rows."""
    if config.kernel is None:
        return Interaction(False, False, False, 1, 1)
    states = max(1, rows // N)
    particles = 1 << (N - 1).bit_length()
    most = max(1, LARGEST_GROUP // particles**2)
    group = min(most, 1 << (states - 1).bit_length())
    return Interaction(True, config.bandwidth == "median", config.bandwidth_grad, particles, group)


def update_plan(N: int) -> tuple[int, Options]:
    """States of a program of the update kernel, and its options: one group of distances, and nothing spilled."""
    states = max(1, UPDATE_ROWS // N)
    return states, Options(num_warps=4 if states > 2 else 8)


def products_of(precision: str, gpu: Gpu) -> str:
    """How float32 numbers are multiplied; see shape.Shape.

    Raises:
        ValueError: the GPU has no tf32.
    """
    if precision == "tf32" and not gpu.tf32:
        raise ValueError(f'precision: {gpu.name} does not multiply tf32; pass "fp32" or "bf16"')
    return "tf32" if gpu.tf32 and precision != "fp32" else "ieee"


def is_large(config: FlowConfig, N: int) -> bool:
    """Whether N particles of a state are too many to interact in a tile."""
    return config.kernel is not None and N > LARGEST_STATE


# ---- settings as kernels take them: a compiled kernel does not look whether a number is a float


def rate_alpha_sigma(config: FlowConfig) -> tuple[float, float, float]:
    """Learning rate, alpha, and the bandwidth where it is a number."""
    sigma = 0.0 if isinstance(config.bandwidth, str) else config.bandwidth
    return config.learning_rate, config.alpha, sigma


def bounds(clip: tuple[float, float] | None) -> tuple[float, float]:
    """The clip's bounds, where there is one."""
    return clip or (0.0, 0.0)


def corrections(step: int) -> tuple[float, float]:
    """Adam's bias corrections 1 - beta^step, steps numbered from 1."""
    return 1 - 0.9**step, 1 - 0.999**step
