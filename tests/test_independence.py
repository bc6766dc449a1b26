"""A state's result is bitwise the same in any company and any place, and a bad state poisons no other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from problems import make_problem

from vgf_kernels import FlowConfig

CONFIG = FlowConfig(num_steps=3, learning_rate=0.1, alpha=0.2)


def results(engine, p, states=slice(None)):
    """Everything the engine gives for some of the states, with the state as the first axis."""
    obs, x, noise = p.obs[states], p.particles[states], p.noise[states]
    q, dq = engine.value_and_grad(p.critic, obs, x, "min")
    return [
        np.moveaxis(q, 0, 2),
        dq,
        np.moveaxis(engine.value(p.critic, obs, x), 0, 2),
        engine.direction(p.critic, obs, x, CONFIG),
        engine.direction(p.critic, obs, x, replace(CONFIG, bandwidth_grad=True)),
        engine.flow(p.critic, obs, x, CONFIG),
        engine.sample(p.policy, obs, noise, 4),
        engine.act(p.critic, p.policy, obs, noise, 4, CONFIG),
        engine.td_target(
            p.critic, p.target_critic, p.policy, obs, noise, p.reward[states], p.mask[states], 0.9, 4, CONFIG
        ),
    ]


@pytest.mark.parametrize("norm", ["pre", "post", "none"])
@pytest.mark.parametrize("N", [1, 3, 10, 40])
def test_alone_in_company_or_elsewhere(cpu_numpy, N, norm):
    p = make_problem(B=13, N=N, hidden=(33, 17), norm=norm)
    together = results(cpu_numpy, p)
    for state in range(13):
        for whole, alone in zip(together, results(cpu_numpy, p, slice(state, state + 1))):
            np.testing.assert_array_equal(whole[state], alone[0])
    order = np.random.default_rng(1).permutation(13)
    for whole, shuffled in zip(together, results(cpu_numpy, p, order)):
        np.testing.assert_array_equal(whole[order], shuffled)


@pytest.mark.parametrize("width", [700, 800, 900, 1100])
@pytest.mark.parametrize("N", [3, 10])
def test_wide_layers_alone_or_in_company(cpu_numpy, N, width):
    """Their sums are taken in spans of units by their number, whichever of these are on."""
    p = make_problem(B=4, N=N, hidden=(width, 17), norm="none")
    together = results(cpu_numpy, p)
    for state in range(4):
        for whole, alone in zip(together, results(cpu_numpy, p, slice(state, state + 1))):
            np.testing.assert_array_equal(whole[state], alone[0])


def test_a_large_batch(cpu):
    p = make_problem(B=700, N=10, hidden=(17,))
    for whole, part in zip(results(cpu, p), results(cpu, p, slice(333, 340))):
        np.testing.assert_array_equal(whole[333:340], part)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["obs", "particles"])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("N", [1, 3, 10, 40])
def test_a_non_finite_input_stays_in_its_state(engine, N, activation, where, bad):
    p = make_problem(B=6, N=N, activation=activation)
    poisoned = replace(p, obs=p.obs.copy(), particles=p.particles.copy(), noise=p.noise.copy())
    if where == "obs":
        poisoned.obs[2, 1] = bad
    else:
        poisoned.particles[2, 0, 1] = bad
        poisoned.noise[2, 0, 1] = bad
    others = np.array([0, 1, 3, 4, 5])
    with np.errstate(all="ignore"):
        clean, got = results(engine, p), results(engine, poisoned)
    for wanted, array in zip(clean, got):
        np.testing.assert_array_equal(array[others], wanted[others])


@pytest.mark.parametrize("where", ["obs", "particles"])
def test_a_nan_is_not_hidden(engine, where):
    """The poisoned state shows it: a NaN comes out as NaN, not as a plausible number."""
    p = make_problem(B=4, N=5)
    poisoned = replace(p, obs=p.obs.copy(), particles=p.particles.copy())
    getattr(poisoned, where)[2].flat[0] = np.nan
    with np.errstate(all="ignore"):
        q = engine.value(p.critic, poisoned.obs, poisoned.particles)
        moved = engine.flow(p.critic, poisoned.obs, poisoned.particles, CONFIG)
    assert np.isnan(q[:, 2, 0]).all()
    assert np.isnan(moved[2, 0]).any()
