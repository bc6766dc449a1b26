"""How particles move: the settings of one flow."""

from __future__ import annotations

import functools
import numbers
import struct
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from .settings import check_choice, check_clip, check_limit, check_positive, is_array

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


@functools.lru_cache(maxsize=256)
def compiled_options(options: Any, config: FlowConfig) -> Any:
    """A config as the FlowOptions `options` of a compiled module."""
    return options(
        config.num_steps, config.learning_rate, config.alpha, config.aggregate, config.kernel,
        config.bandwidth, config.bandwidth_grad, config.optimizer, config.clip,
    )  # fmt: skip
