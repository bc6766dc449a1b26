"""What a kernel is compiled for, and how packed weights and scratch memory are laid out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

ALIGNED = 16  # rows of packed matrices and parts of the scratch memory start at multiples of this many elements


def round_up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


@dataclass(frozen=True)
class Shape:
    """The compile-time constants of a kernel over one network.

    Kernels bind the fields they use to names of their own (`R: tl.constexpr = shape.rows`): Triton 3.4 takes a field for a
    run-time value in some places.

    Attributes:
        rows: R, the particles a program works on at a time.
        states: the states that these may belong to, rounded up to what a product takes.
        width: H, the widest hidden layer, rounded up (packed.packed_width); a multiple of `chunk`.
        chunk: columns of a hidden layer that are accumulated at a time. narrow: the same of the first and the last.
        block: columns of the inner dimension of a product that are loaded at a time.
        norm_rows: rows that are normalised at a time. norm_columns: `width` rounded up to a power of two.
        actions: A, rounded up to a multiple of 16.
        outputs: columns of the last layer: 1 for a critic, `actions` for a velocity field.
        products: how float32 numbers are multiplied, "ieee" or "tf32". In "bf16" they are those of the first and
            the last layer, a few per cent of the work.
    """

    rows: int
    states: int
    width: int
    chunk: int
    narrow: int
    block: int
    norm_rows: int
    norm_columns: int
    actions: int
    outputs: int
    activation: str
    norm: str
    products: str


class Net(NamedTuple):
    """A packed network, seen from a kernel. Matrices are row-major and padded with zeros.

    hidden: [E, depth - 1, 2, H, H], the hidden layers after the first, W and its transpose, in the type of the
        products.
    edges: [E, 16 stride] float32: `first` rows of the first layer's W (observation, action and time inputs)
        [first, H]; the transpose of its action rows [H, actions]; for each hidden layer b, scale and bias
        [depth, 3, H]; the last layer's W [H, outputs] and b [actions].
    widths: [depth + 1], the hidden layers' true widths, and a zero (see network.py).
    """

    hidden: Any
    edges: Any
    widths: Any
    stride: Any
    first: Any
    observations: Any
    actions: Any
    depth: Any
    eps: Any


class Scratch(NamedTuple):
    """A program's own memory, reused for every tile it works on.

    x, dq, phi, first, second: [R, actions] float32: the actions, the gradient of the value, the direction, and
        Adam's moments.
    stats: [depth, 2, R] float32: mean and 1/std of each layer norm.
    inputs: [E, states, H] float32: the first layer's observation part and bias.
    y: [2, R, H] in the type of the products: a layer's activations (or its gradient), and the next one's, where
        they do not take their place.
    tape: [depth, R, H] in that type: what entered each hidden layer's norm or activation.
    """

    x: Any
    dq: Any
    phi: Any
    first: Any
    second: Any
    stats: Any
    inputs: Any
    y: Any
    tape: Any


def scratch_sizes(shape: Shape, ensemble: int, depth: int, taped: bool) -> tuple[int, int]:
    """What a program needs, in units of ALIGNED elements: of float32, and of the type of the products."""
    small = 5 * shape.rows * shape.actions + 2 * depth * shape.rows + ensemble * shape.states * shape.width
    tape = depth if taped else int(shape.norm != "none")
    return round_up(small, ALIGNED) // ALIGNED, (2 + tape) * shape.rows * shape.width // ALIGNED


@dataclass(frozen=True)
class Interaction:
    """How the particles of a state act on each other, as compile-time constants.

    Attributes:
        kernel: whether they do at all.
        median: the bandwidth is the median's, else a given sigma.
        bandwidth_grad: also differentiate through the median.
        particles: N rounded up to a power of two.
        group: how many states' distances are held in registers at a time.
    """

    kernel: bool
    median: bool
    bandwidth_grad: bool
    particles: int
    group: int
