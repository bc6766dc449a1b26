"""The reference is the definition: in float64 it gives every golden output to 1e-12."""

from __future__ import annotations

import golden_cases
import numpy as np
import pytest

from vgf_kernels import reference


@pytest.fixture(params=golden_cases.NAMES)
def golden(request) -> golden_cases.Golden:
    return golden_cases.load(request.param)


def close(got, exact) -> None:
    np.testing.assert_allclose(got, exact, rtol=0, atol=1e-12 * max(1.0, np.abs(exact).max()))


def test_value_and_grad(golden):
    critic, obs, x = golden.critic(), golden.array("obs"), golden.array("particles")
    q, dq = reference.value_and_grad(critic, obs, x, golden.meta["aggregate"])
    close(q, golden.array("q"))
    close(dq, golden.array("dq"))
    close(reference.value(critic, obs, x), golden.array("q"))


@pytest.mark.parametrize("output", golden_cases.DIRECTIONS)
def test_direction(golden, output):
    config = golden.flow_config(**golden_cases.DIRECTIONS[output])
    got = reference.direction(golden.critic(), golden.array("obs"), golden.array("particles"), config)
    close(got, golden.array(output))


@pytest.mark.parametrize("output", golden_cases.FLOWS)
def test_flow(golden, output):
    config = golden.flow_config(**golden_cases.FLOWS[output])
    got = reference.flow(
        golden.critic(), golden.array("obs"), golden.array("particles"), config, trajectory=True
    )
    close(got, golden.array(output))


def test_sample(golden):
    clip = (golden.meta["low"], golden.meta["high"])
    got = reference.sample(
        golden.policy(), golden.array("obs"), golden.array("noise"), golden.meta["euler_steps"], clip
    )
    close(got, golden.array("sampled"))
