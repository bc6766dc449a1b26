"""The calls that do several things at once equal those things one after the other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from accuracy import EPS, expect
from problems import make_problem

from vgf_kernels import MLP, FlowConfig

CONFIG = FlowConfig(num_steps=3, learning_rate=0.1, alpha=0.2, clip=(-0.9, 0.8))
PROBLEM = make_problem(B=9, N=10, E=3, seed=3)
EULER_STEPS = 4


def aggregated(q, aggregate):
    return q.min(axis=0) if aggregate == "min" else q.mean(axis=0)


def moved(engine):
    p = PROBLEM
    start = engine.sample(p.policy, p.obs, p.noise, EULER_STEPS, CONFIG.clip)
    return engine.flow(p.critic, p.obs, start, CONFIG)


@pytest.mark.parametrize("aggregate", ["mean", "min"])
@pytest.mark.parametrize("how", ["max", "softmax", "uniform"])
def test_act(engine, how, aggregate):
    p = PROBLEM
    noise = None if how == "max" else p.select_noise
    particles = moved(engine)
    q = engine.value(p.critic, p.obs, particles)
    index = engine.select(q, how, aggregate=aggregate, temperature=0.3, noise=noise)
    got = engine.act(
        p.critic,
        p.policy,
        p.obs,
        p.noise,
        EULER_STEPS,
        CONFIG,
        how,
        aggregate,
        temperature=0.3,
        select_noise=noise,
    )
    np.testing.assert_array_equal(got, particles[np.arange(len(index)), index])


@pytest.mark.parametrize("aggregate", ["mean", "min"])
@pytest.mark.parametrize("reduce", ["mean", "max"])
def test_td_target(engine, reduce, aggregate):
    p = PROBLEM
    q = aggregated(engine.value(p.target_critic, p.obs, moved(engine)), aggregate)
    wanted = p.reward + 0.95 * p.mask * (q.max(axis=1) if reduce == "max" else q.mean(axis=1))
    got = engine.td_target(
        p.critic, p.target_critic, p.policy, p.obs, p.noise, p.reward, p.mask, 0.95, EULER_STEPS, CONFIG,
        aggregate, reduce,
    )  # fmt: skip
    # the sums over E and N may go in another order
    np.testing.assert_allclose(got, wanted, rtol=0, atol=q.shape[1] * EPS * np.abs(q).max())


def test_no_steps(engine):
    """Particles stay where they were drawn. Of the critic, a fresh one, no more than its value is needed."""
    p, config = make_problem(), FlowConfig(num_steps=0)
    x = engine.sample(p.policy, p.obs, p.noise, EULER_STEPS)
    q = engine.value(p.critic, p.obs, x).mean(axis=0)
    got = engine.act(p.critic, p.policy, p.obs, p.noise, EULER_STEPS, config)
    np.testing.assert_array_equal(got, x[np.arange(len(x)), q.argmax(axis=1)])
    q = engine.value(p.target_critic, p.obs, x).mean(axis=0)
    got = engine.td_target(
        p.critic, p.target_critic, p.policy, p.obs, p.noise, p.reward, p.mask, 0.9, EULER_STEPS, config
    )
    wanted = p.reward + 0.9 * p.mask * q.mean(axis=1)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=q.shape[1] * EPS * np.abs(q).max())


def test_act_takes_the_first_of_equals(engine):
    p, constant = make_problem(), [{"W": np.zeros((8, 4)), "b": np.zeros(4)}, {"W": np.zeros((4, 1)), "b": np.zeros(1)}]
    critic = MLP.from_layers([{key: a.astype(np.float32) for key, a in layer.items()} for layer in constant])
    got = engine.act(critic, p.policy, p.obs, p.noise, EULER_STEPS, FlowConfig(num_steps=0))
    np.testing.assert_array_equal(got, engine.sample(p.policy, p.obs, p.noise, EULER_STEPS)[:, 0])


def test_the_mask_is_a_number(engine):
    """Any number scales what comes next, as a discount of its own that may differ by state."""
    p = replace(make_problem(B=6), mask=np.array([0, 0.25, 0.5, 0.97, 1, -2], np.float32))

    def run(functions, p):
        networks, config = (p.critic, p.target_critic, p.policy), FlowConfig(num_steps=0)
        return functions.td_target(*networks, p.obs, p.noise, p.reward, p.mask, 1.0, EULER_STEPS, config)

    expect(run, p).check(run(engine, p))


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("kernel", ["rbf", None])
def test_transport_along_the_critic_is_the_flow(cpu, kernel, optimizer):
    p = PROBLEM
    config = FlowConfig(num_steps=3, learning_rate=0.1, alpha=0.2, kernel=kernel, optimizer=optimizer)

    def score(x):
        return cpu.value_and_grad(p.critic, p.obs, x)[1]

    np.testing.assert_array_equal(
        cpu.transport(score, p.particles, config, trajectory=True),
        cpu.flow(p.critic, p.obs, p.particles, config, trajectory=True),
    )
    np.testing.assert_array_equal(
        cpu.transport(score, p.particles, config), cpu.flow(p.critic, p.obs, p.particles, config)
    )


def test_value_is_the_value_of_value_and_grad(engine):
    p = PROBLEM
    q, _ = engine.value_and_grad(p.critic, p.obs, p.particles)
    np.testing.assert_array_equal(engine.value(p.critic, p.obs, p.particles), q)
