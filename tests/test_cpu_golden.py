"""The CPU engine against the golden files, within twice the error of plain float32."""

from __future__ import annotations

import golden_cases
import numpy as np
import pytest
from accuracy import ORDERS, Expected
from problems import reordered

from vgf_kernels import reference


@pytest.fixture(params=golden_cases.NAMES)
def golden(request) -> golden_cases.Golden:
    return golden_cases.load(request.param)


def expected(golden, output, run, mlp) -> Expected:
    """The golden output, and what `run(reference, mlp)` makes of it in float32."""
    plain = [run(reference, m) for m in (mlp, *(reordered(mlp, seed) for seed in range(ORDERS)))]
    return Expected(golden.array(output), plain)


def states(golden, particles="particles"):
    return golden.array("obs", np.float32), golden.array(particles, np.float32)


def test_value(golden, cpu):
    def run(functions, critic):
        return functions.value(critic, *states(golden))

    critic = golden.critic(np.float32)
    expected(golden, "q", run, critic).check(run(cpu, critic))


@pytest.mark.parametrize(("part", "output"), [(0, "q"), (1, "dq")])
def test_value_and_grad(golden, cpu, part, output):
    def run(functions, critic):
        return functions.value_and_grad(critic, *states(golden), golden.meta["aggregate"])[part]

    critic = golden.critic(np.float32)
    expected(golden, output, run, critic).check(run(cpu, critic))


@pytest.mark.parametrize("output", golden_cases.DIRECTIONS)
def test_direction(golden, cpu, output):
    def run(functions, critic):
        config = golden.flow_config(**golden_cases.DIRECTIONS[output])
        return functions.direction(critic, *states(golden), config)

    critic = golden.critic(np.float32)
    expected(golden, output, run, critic).check(run(cpu, critic))


@pytest.mark.parametrize("output", golden_cases.FLOWS)
def test_flow(golden, cpu, output):
    def run(functions, critic):
        config = golden.flow_config(**golden_cases.FLOWS[output])
        return functions.flow(critic, *states(golden), config, trajectory=True)

    critic = golden.critic(np.float32)
    expected(golden, output, run, critic).check_share(run(cpu, critic))


def test_sample(golden, cpu):
    def run(functions, policy):
        clip = (golden.meta["low"], golden.meta["high"])
        return functions.sample(policy, *states(golden, "noise"), golden.meta["euler_steps"], clip)

    policy = golden.policy(np.float32)
    expected(golden, "sampled", run, policy).check(run(cpu, policy))
