"""Is a contestant right? Tolerances follow from the error of plain framework arithmetic at the same precision."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from cases import Case, evaluate, make_data

ROUND_OFF = {"fp32": 2.0**-24, "tf32": 2.0**-11, "bf16": 2.0**-8}
# The share of far elements differs between equally good float32 computations: 0.06% to 0.53% for the definition of flow-L3
# with its hidden units in ten orders, 0.14% to 0.65% of flow-L5. So the worst of several orders is what plain arithmetic does
# in float32; below it there is one computation to go by, and this is added.
ORDERS = 5
VARIATION = 3.3e-3
ONE_PARTICLE = 1 / 2560  # of those that are checked


@dataclass(frozen=True)
class Error:
    """How far a result is from the float64 truth, relative to the case's scale.

    Adam turns the sign of a gradient near zero into a whole step, and an argmax a near tie into another action, so a few
    elements may be far off in any finite precision. Hence two numbers: one blind to them and one that counts them.

    Attributes:
        bulk: the error that three elements in four do not exceed.
        far: the share of elements further off than sqrt(round-off).
    """

    bulk: float
    far: float


def error_of(case: Case, result: np.ndarray, truth: np.ndarray, precision: str) -> Error:
    """The error of a result [states, ...]. Raises AssertionError where it has another shape or is not finite."""
    assert result.shape == truth.shape, f"{case.name}: expected shape {truth.shape}, got {result.shape}"
    bad = np.count_nonzero(~np.isfinite(result))
    assert bad == 0, f"{case.name}: {bad} of {result.size} elements are not finite"
    off = np.abs(result - truth) / case.scale
    return Error(float(np.quantile(off, 0.75)), float(np.mean(off > ROUND_OFF[precision] ** 0.5)))


@functools.cache  # several verifications ask for a case's
def expected(case: Case, orders: int = ORDERS) -> tuple[np.ndarray, Error]:
    """The result of a case in float64, and the error of the definition in float32: the worst of several orders of its
    hidden units, since one may be lucky."""
    data = make_data(case)
    truth = evaluate(case, data, np.float64)
    same = [data, *map(data.reordered, range(1, orders))]
    errors = [error_of(case, evaluate(case, one, np.float32), truth, "fp32") for one in same]
    return truth, Error(max(error.bulk for error in errors), max(error.far for error in errors))


def plain_error(in_float32: Error, eager: Error, precision: str) -> Error:
    """The error of plain arithmetic at a precision.

    In fp32 it is that of the definition computed in float32. In a lower precision the bulk of it is as much larger as
    round-off is, and the share of far elements is what eager torch has there.
    """
    if precision == "fp32":
        return in_float32
    return Error(in_float32.bulk * ROUND_OFF[precision] / ROUND_OFF["fp32"], eager.far)


def check(case: Case, error: Error, plain: Error, precision: str) -> None:
    """Raise AssertionError unless the error is at most twice that of plain arithmetic, plus round-off."""
    bulk = 2 * plain.bulk + ROUND_OFF[precision] / case.scale
    far = 2 * plain.far + (ONE_PARTICLE if precision == "fp32" else VARIATION)
    assert error.bulk <= bulk, f"{case.name}: 3 in 4 elements within {error.bulk:.1e}, expected {bulk:.1e}"
    assert error.far <= far, (
        f"{case.name}: {error.far:.2%} of the elements far off, expected {far:.2%} at most"
    )
