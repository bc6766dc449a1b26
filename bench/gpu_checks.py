"""Every function of an engine, for every activation, norm and precision, against the reference in float64.

    python bench/gpu_checks.py ENGINE DEVICE --precision fp32 bf16 --extent few|quick|all [--skip N]

writes two JSON records a check: what is about to be checked, and how it went. Ends after a check that raised, since a GPU
may be of no use to a process then.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

import numpy as np
from accuracy import relative_error
from engines import Engine
from problems import Problem, make_problem
from verify import ROUND_OFF

from vgf_kernels import FlowConfig, reference
from vgf_kernels.mlp import ACTIVATIONS, NORMS

# Adam would hide small errors, and small steps whether there are any: bf16 is allowed some percent of what is measured.
CONFIG = FlowConfig(num_steps=2, learning_rate=1.0, alpha=0.3, optimizer="sgd")
AGREEING = 0.9  # of the actions picked, or all but one: a near tie may go either way
ROUNDINGS = 16  # of small problems, where a unit of relu that changes its mind may be most of the error; 2 of large ones


def _flow(**changes) -> Callable:
    """How far it moves the particles."""
    return lambda f, p: f.flow(p.critic, p.obs, p.particles, replace(CONFIG, **changes)) - p.particles


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
    )
    - p.reward,
    "act": lambda f, p: f.act(p.critic, p.policy, p.obs, p.noise, 3, CONFIG, "max", "min"),
    "transport": lambda f, p: f.transport(lambda x: x * x - x, p.particles, CONFIG) - p.particles,
}
SIZES = {
    "N 10": {"B": 6, "N": 10, "hidden": (64, 48)},
    "N 100": {"B": 2, "N": 100, "A": 2, "hidden": (40, 17)},
    # on Hopper an odd number of tiles, two critics at once; and so many tiles that it is one at a time: among that many
    # particles some have a unit of relu so near to 0 that the order of a sum decides, so these are smooth
    "N 40, 512 wide": {"B": 5, "N": 40, "hidden": (512, 300)},
    "768 states, 512 wide": {"B": 768, "N": 10, "A": 2, "hidden": (512, 300), "activation": "silu"},
    "wide": {"B": 4, "N": 10, "hidden": (600, 300)},
    "E 10": {"B": 4, "N": 4, "E": 10, "hidden": (40, 40)},
    "N 1": {"B": 5, "N": 1, "hidden": (33,)},
    "as the paper": {"B": 100, "N": 10, "A": 8, "O": 29, "hidden": (512,) * 4},
}
MANY = 10**6  # numbers of actions times units
FEW = 2  # of the sizes
LARGE = ("N 40, 512 wide", "as the paper", "768 states, 512 wide")  # the reference takes long


def run(backend: str, device: str, precisions: list[str], extent: str, skip: int = 0) -> Iterator[dict]:
    """Two records a check: what will be checked; the same with its error, and what is allowed.

    Args:
        extent: "few" sizes, "quick": every activation with one norm, or "all".
        skip: so many checks are left out.
    """
    engine = Engine("torch", backend, device)
    jobs = itertools.product(_problems(extent), FUNCTIONS, precisions)
    for number, ((sizes, what), name, precision) in enumerate(jobs):
        if number < skip:
            continue
        about = what | {"number": number, "function": name, "precision": precision}
        yield about
        try:
            yield about | _check(engine, name, tuple(sizes.items()), precision)
        except Exception as error:  # noqa: BLE001  whatever it is, it is this engine's result here
            yield about | {"passed": False, "failed": f"{type(error).__name__}: {error}"}
            return


def _problems(extent: str) -> Iterator[tuple[dict, dict]]:
    """What matters most comes first."""
    sizes = dict(itertools.islice(SIZES.items(), FEW)) if extent == "few" else SIZES
    problems = {
        name: (size, {"activation": size.get("activation", "relu"), "norm": "pre", "sizes": name})
        for name, size in sizes.items()
    }
    yield from (problem for name, problem in problems.items() if name not in LARGE)
    every = list(itertools.product(ACTIVATIONS, NORMS))
    one_norm = [(a, NORMS[i % len(NORMS)]) for i, a in enumerate(ACTIVATIONS)]
    others = [network for network in every if network not in one_norm]
    for activation, norm in {"few": [], "quick": one_norm, "all": one_norm + others}[extent]:
        about = {"activation": activation, "norm": norm}
        yield SIZES["N 10"] | about, about | {"sizes": "N 10"}
    if extent == "all":
        yield from (problems[name] for name in LARGE)


@functools.lru_cache(maxsize=1)  # the precisions of a function follow each other
def _truth(name: str, sizes: tuple) -> tuple[Problem, np.ndarray, float]:
    """A problem, what a function should give, and the error of plain float32."""
    function, p = FUNCTIONS[name], make_problem(**dict(sizes))
    exact = function(reference, p.at(np.float64))
    return p, exact, max(relative_error(function(reference, q), exact) for q in (p, *map(p.reordered, range(3))))


def _check(engine: Engine, name: str, sizes: tuple, precision: str) -> dict:
    p, exact, plain = _truth(name, sizes)
    if precision != "fp32":  # relu and ties jump, so the error does not grow as round-off does
        count = 2 if p.particles.size * p.critic.widths[1] > MANY else ROUNDINGS
        inexact = (p.rounded(ROUND_OFF[precision], seed) for seed in range(count))
        plain = max(relative_error(FUNCTIONS[name](reference, q), exact) for q in inexact)
    allowed = 2 * plain + 8 * ROUND_OFF[precision]
    got = FUNCTIONS[name](_Precise(engine, precision), p)
    error = relative_error(got, exact)
    passed = error <= allowed
    if name == "act" and not passed:
        far = np.abs(got - exact).max(axis=1) > allowed * np.abs(exact).max()
        passed = far.sum() <= max(1, (1 - AGREEING) * len(far))
    return {"error": error, "allowed": allowed, "passed": bool(passed)}


class _Precise:
    """The functions of an engine at one precision."""

    def __init__(self, engine: Engine, precision: str) -> None:
        self._engine, self._precision = engine, precision

    def __getattr__(self, name: str) -> Callable:
        return lambda *args: getattr(self._engine, name)(*args, precision=self._precision)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("engine", help="a backend")
    parser.add_argument("device", help="cpu or cuda")
    parser.add_argument("--precision", nargs="+", required=True, help="fp32, tf32, bf16")
    parser.add_argument(
        "--extent", choices=("few", "quick", "all"), required=True, help="few sizes, one norm, or everything"
    )
    parser.add_argument("--skip", type=int, default=0, help="leave so many checks out")
    options = parser.parse_args()
    for record in run(options.engine, options.device, options.precision, options.extent, options.skip):
        print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
