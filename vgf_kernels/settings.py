"""Checks of single settings, which are numbers, strings and None: of a FlowConfig's fields and of arguments like them."""

from __future__ import annotations

import math
import numbers
import sys
from typing import Any

MOST_STEPS = 2**31 - 1  # the engines count in 32 bits
LEAST = 1e-37  # of what must be positive in float32


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
