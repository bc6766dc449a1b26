"""What the flow does whatever the network: symmetries, bounds and identities, on every engine."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from accuracy import EPS, relative_error
from engines import Engine
from problems import layers_of, make_problem

from vgf_kernels import MLP, FlowConfig, reference

CONFIG = FlowConfig(num_steps=4, learning_rate=0.2, alpha=0.1)
PROBLEM = make_problem(B=3, N=8, A=3, activation="silu")


def flow(engine, p=PROBLEM, config=CONFIG, **kwargs):
    return engine.flow(p.critic, p.obs, p.particles, config, **kwargs)


@pytest.mark.parametrize("kernel", ["rbf", None])
def test_relabelling_the_particles_relabels_the_result(engine, kernel):
    """Only the order of summation over the N particles changes: N round-offs, for the two runs."""
    p, order = PROBLEM, np.random.default_rng(0).permutation(PROBLEM.particles.shape[1])
    shuffled = replace(p, particles=p.particles[:, order])
    config = replace(CONFIG, optimizer="sgd", kernel=kernel)
    allowed = 2 * len(order) * EPS
    phi = engine.direction(p.critic, p.obs, p.particles, config)
    assert (
        relative_error(engine.direction(p.critic, p.obs, shuffled.particles, config), phi[:, order])
        <= allowed
    )
    assert relative_error(flow(engine, shuffled, config), flow(engine, p, config)[:, order]) <= allowed


def test_the_gradient_through_the_bandwidth_breaks_that_symmetry(engine):
    p, order = PROBLEM, np.arange(PROBLEM.particles.shape[1])[::-1]
    config = replace(CONFIG, bandwidth_grad=True)
    phi = engine.direction(p.critic, p.obs, p.particles, config)
    shuffled = engine.direction(p.critic, p.obs, p.particles[:, order], config)
    assert relative_error(shuffled, phi[:, order]) > 1e-3


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_clip_bounds_hold_at_every_step(engine, optimizer):
    config = replace(CONFIG, clip=(-0.3, 0.2), learning_rate=5.0, optimizer=optimizer)
    steps = flow(engine, config=config, trajectory=True)[1:]
    low, high = np.float32(-0.3), np.float32(0.2)
    assert steps.min() == low and steps.max() == high


@pytest.mark.parametrize("frontend", ["numpy", "torch"])
@pytest.mark.parametrize("num_steps", [0, 2])
def test_transport_does_not_write_to_its_input(frontend, num_steps):
    """Not by way of a score that writes to what it is given, nor of a result that is the input itself."""
    engine, config = Engine(frontend, "cpu"), replace(CONFIG, num_steps=num_steps)
    particles = engine.array(PROBLEM.particles.copy())

    def score(x):
        x *= 2
        return x

    moved = engine.module.transport(score, particles, config)
    alike = engine.module.transport(lambda x: 2 * x, particles, config)
    np.testing.assert_array_equal(np.asarray(moved), np.asarray(alike))  # nor is the step taken from elsewhere
    moved += 1
    np.testing.assert_array_equal(np.asarray(particles), PROBLEM.particles)


@pytest.mark.parametrize("spread", [1e-6, 2e-6, 1e-3])
def test_a_bandwidth_at_its_floor_is_constant(engine, spread):
    """Below the floor of sigma^2, between the first two, the median has no derivative to follow, above it has."""
    x = (PROBLEM.particles * spread).astype(np.float32)
    fixed, through = (
        engine.direction(PROBLEM.critic, PROBLEM.obs, x, replace(CONFIG, bandwidth_grad=grad)) for grad in (False, True)
    )
    assert np.array_equal(fixed, through) == (spread == 1e-6)


def test_no_steps_is_the_identity(engine):
    """Nothing moves, and nothing is clipped either. The result is a copy."""
    config = replace(CONFIG, num_steps=0, clip=(-0.1, 0.1))
    particles = flow(engine, config=config)
    np.testing.assert_array_equal(particles, PROBLEM.particles)
    assert not np.shares_memory(particles, PROBLEM.particles)
    np.testing.assert_array_equal(flow(engine, config=config, trajectory=True), PROBLEM.particles[None])
    moved = engine.transport(lambda x: x, PROBLEM.particles, config)
    np.testing.assert_array_equal(moved, PROBLEM.particles)


def test_the_trajectory_holds_every_shorter_flow(engine):
    path = flow(engine, trajectory=True)
    assert path.shape == (CONFIG.num_steps + 1, *PROBLEM.particles.shape)
    for steps, particles in enumerate(path):
        np.testing.assert_array_equal(particles, flow(engine, config=replace(CONFIG, num_steps=steps)))


@pytest.mark.parametrize("bandwidth", ["median", 0.3])
def test_one_particle_is_not_repelled(engine, bandwidth):
    p = make_problem(N=1, B=5)
    _, dq = engine.value_and_grad(p.critic, p.obs, p.particles)
    phi = engine.direction(p.critic, p.obs, p.particles, replace(CONFIG, bandwidth=bandwidth))
    np.testing.assert_allclose(phi, dq / np.float32(CONFIG.alpha), rtol=4 * EPS)


def test_particles_repel_each_other(engine):
    """Under a constant value only the repulsion is left: two particles part, along the line between them."""
    layers = [{"W": np.zeros((i, o), np.float32), "b": np.zeros(o, np.float32)} for i, o in ((4, 8), (8, 1))]
    obs = np.zeros((1, 2), np.float32)
    particles = np.array([[[-0.1, 0.0], [0.2, 0.1]]], np.float32)
    phi = engine.direction(MLP.from_layers(layers), obs, particles, replace(CONFIG, bandwidth=0.5))[0]
    np.testing.assert_allclose(phi[0], -phi[1], rtol=1e-6)
    away = particles[0, 0] - particles[0, 1]
    gamma = 1 / (1e-6 + 2 * 0.5**2)
    np.testing.assert_allclose(phi[0], gamma * np.exp(-gamma * (away @ away)) * away, rtol=1e-5)


def test_the_first_adam_step_is_the_learning_rate(engine):
    """Adam's first step is the sign of phi, whatever its size."""
    config = replace(CONFIG, num_steps=1, clip=None)
    phi = engine.direction(PROBLEM.critic, PROBLEM.obs, PROBLEM.particles, config)
    assert np.abs(phi).min() > 1e-5  # far above Adam's eps of 1e-8
    step = flow(engine, config=config) - PROBLEM.particles
    np.testing.assert_allclose(step, config.learning_rate * np.sign(phi), rtol=2e-3)


def test_an_exact_tie_shares_the_gradient_evenly(engine):
    """Critics relu(a_0), relu(a_1) and relu(a_0) + 1: at a_0 = a_1 the first two tie, below the third."""

    def critic(weights, bias):
        first = np.array([[0.0], *([w] for w in weights)], np.float32)
        return [
            {"W": first, "b": np.zeros(1, np.float32)},
            {"W": np.ones((1, 1), np.float32), "b": np.full(1, bias, np.float32)},
        ]

    mlp = MLP.from_layers([critic((1, 0), 0), critic((0, 1), 0), critic((1, 0), 1)])
    obs = np.zeros((1, 1), np.float32)
    actions = np.array([[[0.5, 0.5], [0.5, 0.75], [0.75, 0.5]]], np.float32)
    _, dq = engine.value_and_grad(mlp, obs, actions, "min")
    np.testing.assert_array_equal(dq[0], [[0.5, 0.5], [1, 0], [0, 1]])
    _, dq = engine.value_and_grad(mlp, obs, actions, "mean")
    np.testing.assert_allclose(dq[0], np.broadcast_to([2 / 3, 1 / 3], (3, 2)), rtol=2 * EPS)


def test_relu_has_no_slope_at_zero(engine):
    layers = [{"W": np.ones((3, 4)), "b": np.zeros(4)}, {"W": np.ones((4, 1)), "b": np.zeros(1)}]
    critic = MLP.from_layers([{key: a.astype(np.float32) for key, a in layer.items()} for layer in layers])
    _, dq = engine.value_and_grad(critic, np.zeros((1, 1), np.float32), np.zeros((1, 2, 2), np.float32))
    assert not dq.any()


def test_identical_critics_are_one_critic(engine):
    p = make_problem(E=1)
    layers = [{k: v for k, v in layer._asdict().items() if v is not None} for layer in p.critic.members[0]]
    twins = MLP.from_layers([layers, layers], activation="relu", norm="pre", norm_eps=p.critic.norm_eps)
    _, one = engine.value_and_grad(p.critic, p.obs, p.particles)
    for aggregate in ("mean", "min"):
        _, both = engine.value_and_grad(twins, p.obs, p.particles, aggregate)
        assert relative_error(both, one) <= 2 * EPS


def test_the_inputs_are_not_written_to(engine):
    p = make_problem()
    before = [a.copy() for a in (p.obs, p.particles, p.noise)]
    flow(engine, p)
    engine.act(p.critic, p.policy, p.obs, p.noise, 3, CONFIG)
    engine.transport(lambda x: -x, p.particles, CONFIG)
    for array, copy in zip((p.obs, p.particles, p.noise), before):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize("mask", [0, 1])
@pytest.mark.parametrize("bad", [0, 5])
def test_a_particle_that_is_nan_is_the_largest(engine, bad, mask):
    """As it is for NumPy's max and argmax: it decides its state, and no other. No mask hides it: 0 times NaN is NaN."""
    p, noise = PROBLEM, PROBLEM.noise.copy()
    noise[1, bad] = np.nan
    config = replace(CONFIG, kernel=None)
    action = engine.act(p.critic, p.policy, p.obs, noise, 2, config)
    assert np.isnan(action[1]).all() and np.isfinite(action[[0, 2]]).all()
    target = engine.td_target(
        p.critic, p.target_critic, p.policy, p.obs, noise, p.reward, np.full_like(p.mask, mask), 0.9, 2, config,
        reduce="max",
    )  # fmt: skip
    np.testing.assert_array_equal(np.isnan(target), [False, True, False])


@pytest.mark.parametrize("bad", [0, 1])
def test_a_critic_that_is_nan_is_the_smallest(engine, bad):
    p, members = PROBLEM, layers_of(PROBLEM.target_critic)
    members[bad][-1]["b"] = np.full(1, np.nan, np.float32)
    target_critic = MLP.from_layers(members, activation="silu", norm="pre", norm_eps=1e-5)
    target = engine.td_target(
        p.critic, target_critic, p.policy, p.obs, p.noise, p.reward, np.ones_like(p.mask), 0.9, 2, CONFIG, "min"
    )  # fmt: skip
    assert np.isnan(target).all()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("bandwidth_grad", [False, True])
@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("N", [5, 70])
def test_a_particle_that_is_not_finite_spoils_its_state(engine, N, bad, bandwidth_grad):
    """A median of numbers one of which is NaN is NaN, as NumPy's is: infinity has no distance from itself."""
    p = make_problem(B=3, N=N, A=3, hidden=(16,), norm="none")
    p.particles[1, 2, 1] = bad
    config = replace(CONFIG, num_steps=1, bandwidth_grad=bandwidth_grad)
    for function in ("direction", "flow"):
        wanted, got = (getattr(f, function)(p.critic, p.obs, p.particles, config) for f in (reference, engine))
        np.testing.assert_array_equal(np.isnan(got), np.isnan(wanted))
        assert np.isnan(wanted[1]).all() and np.isfinite(wanted[[0, 2]]).all()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("aggregate", ["min", "mean"])
def test_the_gradient_of_a_value_that_is_nan(engine, aggregate):
    """A relu passes nothing back from NaN, so it is the smallest value that makes its gradient NaN."""
    p = make_problem(B=3, N=5, E=2, hidden=(16,), norm="none", activation="relu")
    p.obs[1, 0] = np.nan
    for wanted, got in zip(
        reference.value_and_grad(p.critic, p.obs, p.particles, aggregate),
        engine.value_and_grad(p.critic, p.obs, p.particles, aggregate),
    ):
        np.testing.assert_array_equal(np.isnan(got), np.isnan(wanted))
