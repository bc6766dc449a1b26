"""Every function of an engine, for every activation, norm and precision, against the reference in float64."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from engines import Engine
from problems import Problem, make_problem
from verify import ROUND_OFF

from vgf_kernels import FlowConfig, reference
from vgf_kernels.mlp import ACTIVATIONS, NORMS

CONFIG = FlowConfig(
    num_steps=2, learning_rate=0.05, alpha=0.3, optimizer="sgd"
)  # Adam would hide small errors
AGREEING = 0.9  # of the actions picked: a near tie may go either way


def _flow(**changes) -> Callable:
    return lambda f, p: f.flow(p.critic, p.obs, p.particles, replace(CONFIG, **changes))


FUNCTIONS: dict[str, Callable[[Any, Problem], np.ndarray]] = {
    "value": lambda f, p: f.value(p.critic, p.obs, p.particles),
    "gradient": lambda f, p: f.value_and_grad(p.critic, p.obs, p.particles, "mean")[1],
    "gradient of min": lambda f, p: f.value_and_grad(p.critic, p.obs, p.particles, "min")[1],
    "direction": lambda f, p: f.direction(p.critic, p.obs, p.particles, CONFIG),
    "direction through the bandwidth": lambda f, p: f.direction(
        p.critic, p.obs, p.particles, replace(CONFIG, bandwidth_grad=True)
    ),
    "flow": _flow(),
    "flow without kernel": _flow(kernel=None, clip=None),
    "flow, fixed bandwidth": _flow(bandwidth=0.5),
    "sample": lambda f, p: f.sample(p.policy, p.obs, p.noise, 4),
    "td_target": lambda f, p: f.td_target(
        p.critic, p.target_critic, p.policy, p.obs, p.noise, p.reward, p.mask, 0.9, 3, CONFIG, "min", "max"
    ),
    "act": lambda f, p: f.act(p.critic, p.policy, p.obs, p.noise, 3, CONFIG, "max", "min"),
    "transport": lambda f, p: f.transport(lambda x: x * x - x, p.particles, CONFIG),
}
SIZES = {
    "N 10": {"B": 6, "N": 10, "hidden": (64, 48)},
    "N 1": {"B": 5, "N": 1, "hidden": (33,)},
    "N 100": {"B": 2, "N": 100, "A": 2, "hidden": (40, 17)},
    "E 10": {"B": 4, "N": 4, "E": 10, "hidden": (40, 40)},
    "wide": {"B": 4, "N": 10, "hidden": (600, 300)},
}


def run(backend: str, device: str, precisions: list[str], quick: bool) -> list[dict]:
    """One record a check: what was computed, its error, what is allowed."""
    engine = Engine("torch", backend, device)
    return [
        _check(engine, name, function, problem, precision, what)
        for problem, what in _problems(quick)
        for precision in precisions
        for name, function in FUNCTIONS.items()
    ]


def _problems(quick: bool) -> Iterator[tuple[Problem, dict]]:
    networks = (
        [(a, NORMS[i % len(NORMS)]) for i, a in enumerate(ACTIVATIONS)]
        if quick
        else itertools.product(ACTIVATIONS, NORMS)
    )
    for activation, norm in networks:
        sizes = {"B": 6, "N": 10, "hidden": (64, 48), "activation": activation, "norm": norm}
        yield make_problem(**sizes), {"activation": activation, "norm": norm, "sizes": "N 10"}
    for name, sizes in SIZES.items():
        yield make_problem(**sizes), {"activation": "relu", "norm": "pre", "sizes": name}


def _check(engine: Engine, name: str, function: Callable, p: Problem, precision: str, what: dict) -> dict:
    exact = function(reference, p.at(np.float64))
    plain = max(_distance(function(reference, q), exact) for q in (p, *map(p.reordered, range(3))))
    growth = ROUND_OFF[precision] / ROUND_OFF["fp32"]
    allowed = 2 * plain * growth + 8 * ROUND_OFF[precision]
    got = function(_Precise(engine, precision), p)
    error = _distance(got, exact)
    passed = error <= allowed
    if name == "act" and not passed:
        passed = np.mean(np.abs(got - exact).max(axis=1) <= allowed * np.abs(exact).max()) >= AGREEING
    record = {
        "function": name,
        "precision": precision,
        "error": error,
        "allowed": allowed,
        "passed": bool(passed),
    }
    return what | record


def _distance(got: np.ndarray, exact: np.ndarray) -> float:
    return float(np.linalg.norm(got - exact) / np.linalg.norm(exact))


class _Precise:
    """The functions of an engine at one precision."""

    def __init__(self, engine: Engine, precision: str) -> None:
        self._engine, self._precision = engine, precision

    def __getattr__(self, name: str) -> Callable:
        return lambda *args: getattr(self._engine, name)(*args, precision=self._precision)
