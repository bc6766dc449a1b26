"""The reference as an engine: the methods of the others, on any frontend's CPU arrays of any float dtype."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import checks
from ..mlp import MLP
from . import functions
from .pairwise import direction_from_gradient

DEVICE = "cpu"
DTYPES = checks.REFERENCE_DTYPES
PRECISIONS = ("fp32",)


def missing() -> None:
    """Nothing: it runs everywhere."""


def detail() -> str:
    """What it computes with."""
    return "NumPy"


class Engine:
    """The public functions by their definition. Results have the dtype of the arrays."""

    def __init__(self, arrays: Any, precision: str | None) -> None:
        self._arrays = arrays  # the arrays' dtype is the precision

    def value(self, *args):
        return self._run(functions.value, *args)

    def value_and_grad(self, *args):
        return self._run(functions.value_and_grad, *args)

    def jacobian(self, critic, obs, actions):
        """q [E, B, N] and the gradient of every critic, [E, B, N, A]."""

        def every_critic(critic, obs, actions):
            pairs = [functions.value_and_grad(critic.member(e), obs, actions) for e in range(critic.ensemble)]
            return np.concatenate([q for q, _ in pairs]), np.stack([dq for _, dq in pairs])

        return self._run(every_critic, critic, obs, actions)

    def direction(self, *args):
        return self._run(functions.direction, *args)

    def flow(self, *args):
        return self._run(functions.flow, *args)

    def sample(self, *args):
        return self._run(functions.sample, *args)

    def act(self, *args):
        def run(*args):
            *args, temperature, select_noise = args
            return functions.act(*args, temperature=temperature, select_noise=select_noise)

        return self._run(run, *args)

    def td_target(self, *args):
        return self._run(functions.td_target, *args)

    def update(self, particles, dq, first_moment, second_moment, step, config):
        """One step of transport, numbered from 1. The moments are updated in place."""

        def run(x, dq, first, second):
            phi = direction_from_gradient(x, dq, config)
            x, (first[:], second[:]) = functions.update(x, phi, (first, second), step, config)
            return x

        return self._run(run, particles, dq, first_moment, second_moment)

    def _run(self, function, *args):
        arrays = self._arrays
        for network in args:
            if isinstance(network, MLP):
                checks.check_weights(network.members, "reference", DTYPES)
        numpy = [arrays.to_numpy(a) if isinstance(a, arrays.Array) else a for a in args]
        dtype = next(a.dtype for a in numpy if isinstance(a, np.ndarray))
        result = function(*numpy)
        if isinstance(result, tuple):
            return tuple(arrays.from_numpy(r.astype(dtype, copy=False)) for r in result)
        return arrays.from_numpy(result.astype(dtype, copy=False))
