"""How particles move: the settings of one flow."""

from __future__ import annotations

import functools
import math
import numbers
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

MOST_STEPS = 2**31 - 1  # the engines count in 32 bits
LEAST = 1e-37  # of what must be positive in float32

in_a_graph: Callable[[], bool] = lambda: False  # whether a compiler is reading this code; vgf_kernels.torch knows


class _Bits:
    """What a FlowConfig has beside its fields, and not among them: what vars() and asdict() give makes another one."""

    __slots__ = ("bits",)


@dataclass(frozen=True)
class FlowConfig(_Bits):
    """Settings of the discrete value gradient flow (VGF, arXiv 2604.14265). Frozen and hashable.

    Attributes:
        num_steps: flow steps L >= 0; 0 leaves the particles where they are. This is VGF's test-time
            transport budget, free to change from call to call.
        learning_rate: step size of the optimizer, > 0, in units of the action.
        alpha: temperature of the value, > 0. Small alpha follows the value, large alpha spreads particles.
        aggregate: how an ensemble of critics becomes one value: "mean" or "min".
        kernel: "rbf" couples the particles of a state (SVGD); None moves each on its own.
        bandwidth: "median" (the median heuristic, per state) or a float, the sigma of the RBF kernel.
        bandwidth_grad: also differentiate through the median, as the official implementation does.
        optimizer: "adam" (b1 .9, b2 .999, eps 1e-8, moments zero at every call) or "sgd".
        clip: (low, high) bounds applied to the actions after every step, or None.

    Raises:
        ValueError: a field is out of range; the message says which and what is expected.
    """

    num_steps: int = 1
    learning_rate: float = 0.1
    alpha: float = 1.0
    aggregate: str = "mean"
    kernel: str | None = "rbf"
    bandwidth: str | float = "median"
    bandwidth_grad: bool = False
    optimizer: str = "adam"
    clip: tuple[float, float] | None = (-1.0, 1.0)

    def __post_init__(self) -> None:
        steps = self.num_steps
        if isinstance(steps, bool) or not isinstance(steps, numbers.Integral) or steps < 0:
            remedy = "; functions of vgf_kernels.jax take an array as their own num_steps=" if is_array(steps) else ""
            raise ValueError(f"num_steps: expected an integer >= 0, got {steps!r}{remedy}")
        check_limit("num_steps", steps)
        set_field = functools.partial(object.__setattr__, self)
        set_field("num_steps", int(steps))  # NumPy's numbers are no constants to torch.compile
        set_field("learning_rate", check_positive("learning_rate", self.learning_rate))
        set_field("alpha", check_positive("alpha", self.alpha))
        check_choice("aggregate", self.aggregate, ("mean", "min"))
        check_choice("kernel", self.kernel, ("rbf", None))
        check_choice("optimizer", self.optimizer, ("adam", "sgd"))
        if isinstance(self.bandwidth, str):
            check_choice("bandwidth", self.bandwidth, ("median",), also="or a positive float (sigma)")
        else:
            set_field("bandwidth", check_positive("bandwidth", self.bandwidth))
        if not isinstance(self.bandwidth_grad, bool):
            raise ValueError(f"bandwidth_grad: expected True or False, got {self.bandwidth_grad!r}")
        if self.bandwidth_grad and self.bandwidth != "median":
            raise ValueError(
                f"bandwidth_grad=True differentiates through the median, but bandwidth is {self.bandwidth!r}; "
                'use bandwidth="median" or bandwidth_grad=False'
            )
        set_field("clip", check_clip(self.clip))
        sigma = 0.0 if isinstance(self.bandwidth, str) else self.bandwidth
        set_field("bits", None if in_a_graph() else tuple(map(to_bits, (self.learning_rate, self.alpha, sigma))))

    def __reduce__(self) -> tuple:  # pickle would assign to the slot, which is frozen
        return type(self), tuple(getattr(self, field.name) for field in fields(self))


def to_bits(number: float) -> int:
    """The 64 bits of a float, as an integer."""
    return struct.unpack("<q", struct.pack("<d", number))[0]


def from_bits(bits: int) -> float:
    """The float of to_bits."""
    return struct.unpack("<d", struct.pack("<q", bits))[0]


def check_limit(name: str, steps: int) -> None:
    """Raise ValueError where an engine could not count so many steps."""
    if steps > MOST_STEPS:
        raise ValueError(f"{name}: expected at most {MOST_STEPS} steps, got {steps!r}; the engines count in 32 bits")


def check_positive(name: str, value: Any, remedy: str = "") -> float:
    """Return value as a float. Raises ValueError unless it is a number > 0 that float32 can hold, and its inverse."""
    if not is_finite(value) or value <= 0:
        raise ValueError(f"{name}: expected a finite number > 0, got {value!r}{remedy_for(value) or remedy}")
    if not LEAST <= value <= 1 / LEAST:
        raise ValueError(f"{name}: expected a number between {LEAST} and {1 / LEAST}, which float32 can hold, got {value!r}")
    return float(value)


def is_array(value: Any) -> bool:
    """Whether value is an array or a tensor, traced or not, rather than one of NumPy's numbers."""
    return hasattr(value, "shape") and hasattr(value, "__len__")


def remedy_for(setting: Any) -> str:
    """What to do where an array stands for a setting, to end a message with; "" for anything else."""
    if not is_array(setting):
        return ""
    return "; a setting is a Python number: convert it outside, and under jax.jit pass it by static_argnames"


def is_finite(value: Any) -> bool:
    """Whether value is a real number, no bool, that a float can hold."""
    # by comparison, because torch.compile cannot trace math.isfinite of a changing number
    if not _is_number(value) or not -math.inf < value < math.inf:
        return False
    return not isinstance(value, int) or abs(value) <= sys.float_info.max


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, numbers.Real)) and not isinstance(value, bool)


def _as_float(value: Any) -> float:
    if not _is_number(value):  # float("1") is one
        raise TypeError
    return float(value)


def check_choice(name: str, value: object, choices: tuple, also: str = "") -> None:
    """Raise ValueError unless value is one of choices, which are strings and None."""
    if not (value is None or isinstance(value, str)) or value not in choices:  # an array compares by element
        names = ", ".join(repr(c) for c in choices)
        raise ValueError(f"{name}: expected one of {names}{' ' + also if also else ''}, got {value!r}")


def check_clip(clip: tuple[float, float] | None) -> tuple[float, float] | None:
    """Return clip as a pair of floats, or None. Raises ValueError if it is not (low, high) with low < high."""
    if clip is None:
        return None
    try:
        low, high = map(_as_float, clip)
    except (TypeError, ValueError, OverflowError):
        bounds = clip if isinstance(clip, (tuple, list)) else ()
        remedy = next(filter(None, map(remedy_for, bounds)), "")
        if any(is_array(bound) and len(bound.shape) > 0 for bound in bounds):
            remedy = "; one pair of numbers is for all dimensions of an action"
        raise ValueError(f"clip: expected (low, high), two numbers, or None, got {clip!r}{remedy}") from None
    if not low < high:
        swap = "swap the bounds or " if low > high else ""
        raise ValueError(f"clip: expected low < high, got {clip!r}; {swap}pass None for no clip")
    return (low, high)


@functools.lru_cache(maxsize=256)
def compiled_options(options: Any, config: FlowConfig) -> Any:
    """A config as the FlowOptions `options` of a compiled module."""
    return options(
        config.num_steps, config.learning_rate, config.alpha, config.aggregate, config.kernel,
        config.bandwidth, config.bandwidth_grad, config.optimizer, config.clip,
    )  # fmt: skip
