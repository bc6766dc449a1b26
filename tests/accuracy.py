"""How close is close enough: tolerances derived from the same computation in plain float32, never guessed.

The truth is the float64 reference. `Expected` also holds plain float32 results: the reference on float32
arrays, with the hidden units in several orders, so that one lucky order of summation does not set the bar.
An engine may be off by twice the plain error, plus a round-off of a few units in the last place.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from problems import Problem

from vgf_kernels import reference

EPS = float(np.finfo(np.float32).eps)
ROUND_OFF = 8 * EPS  # about 1e-6
AGREEING_SHARE = 0.99
ORDERS = 8  # on top of the given one


@dataclass(frozen=True)
class Expected:
    """The float64 result and the plain float32 results of one computation."""

    exact: np.ndarray
    plain: list[np.ndarray]

    def check(self, got: np.ndarray) -> None:
        """The whole array by relative norm: one element wrong by its own size is enough to fail."""
        self._check_shape(got)
        allowed = 2 * max(relative_error(p, self.exact) for p in self.plain) + ROUND_OFF
        error = relative_error(got, self.exact)
        assert error <= allowed, f"relative error {error:.2e}, allowed {allowed:.2e}"

    def check_share(self, got: np.ndarray) -> None:
        """Moved particles, by the share of elements that agree.

        Adam turns a tiny phi into a full step, so where phi passes near zero, or a particle crosses a relu
        edge, two correct float32 results may differ by whole steps; elsewhere they must agree.
        """
        self._check_shape(got)
        worst = np.max([np.abs(p - self.exact) for p in self.plain], axis=0)
        scale = max(1.0, float(np.abs(self.exact).max()))
        allowed = 2 * np.quantile(worst, AGREEING_SHARE, method="higher") + ROUND_OFF * scale
        errors = np.abs(got - self.exact)
        share = np.mean(errors <= allowed)
        assert share >= AGREEING_SHARE, (
            f"{share:.1%} of the elements are within {allowed:.2e}, the largest error is {errors.max():.2e}"
        )

    def _check_shape(self, got: np.ndarray) -> None:
        assert got.dtype == np.float32
        assert got.shape == self.exact.shape


def expect(run, problem: Problem) -> Expected:
    """What `run(functions, problem)` should give, with the reference's functions as `functions`."""
    return expect_all(lambda *args: [run(*args)], problem)[0]


def expect_all(run, problem: Problem) -> list[Expected]:
    """The same of each of a list of results."""
    plain = [run(reference, p) for p in (problem, *map(problem.reordered, range(ORDERS)))]
    assert all(array.dtype == np.float32 for arrays in plain for array in arrays)
    exact = run(reference, problem.at(np.float64))
    return [Expected(truth, list(others)) for truth, *others in zip(exact, *plain)]


def relative_error(got: np.ndarray, exact: np.ndarray) -> float:
    """Norm of the error over the norm of the exact array (over 1 where that is zero)."""
    return float(np.linalg.norm(got - exact) / (np.linalg.norm(exact) or 1.0))
