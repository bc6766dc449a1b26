"""Awkward sizes: widths and particle counts that fill no tile, many critics, one dimension of everything."""

from __future__ import annotations

import numpy as np
import pytest
from accuracy import expect, expect_all
from problems import make_problem

from vgf_kernels import FlowConfig

CONFIG = FlowConfig(num_steps=2, learning_rate=0.1, alpha=0.2)


def check_all(engine, **sizes) -> None:
    """value, gradient, direction, flow and sample of one problem."""
    problem = make_problem(**sizes)

    def value(functions, p):
        return functions.value(p.critic, p.obs, p.particles)

    def gradient(functions, p):
        return functions.value_and_grad(p.critic, p.obs, p.particles, "min")[1]

    def direction(functions, p):
        return functions.direction(p.critic, p.obs, p.particles, CONFIG)

    def flow(functions, p):
        return functions.flow(p.critic, p.obs, p.particles, CONFIG)

    def sample(functions, p):
        return functions.sample(p.policy, p.obs, p.noise, 3)

    for run in (value, gradient, direction, sample):
        expect(run, problem).check(run(engine, problem))
    expect(flow, problem).check_share(flow(engine, problem))


@pytest.mark.parametrize("norm", ["pre", "post", "none"])
@pytest.mark.parametrize(
    "hidden",
    [(1,), (17,), (33,), (300,), (1, 1), (17, 1, 33), (33, 300, 17), (300, 33), (16, 32, 64, 48, 31)],
)
def test_widths(cpu_numpy, hidden, norm):
    check_all(cpu_numpy, hidden=hidden, norm=norm, activation="relu")


@pytest.mark.parametrize("hidden", [(1,), (17, 1, 33), (33, 300, 17)])
def test_widths_of_a_smooth_network(cpu_numpy, hidden):
    check_all(cpu_numpy, hidden=hidden, norm="pre", activation="gelu")


@pytest.mark.parametrize("N", [1, 2, 7, 11, 300])
@pytest.mark.parametrize("B", [1, 2, 5])
def test_particles_and_states(cpu_numpy, B, N):
    check_all(cpu_numpy, B=B, N=N)


def test_more_particles_than_are_counted(cpu_numpy):
    critic = make_problem(O=1, A=1, hidden=(1,)).critic
    try:
        particles = np.empty((1, 2**30 + 1, 1), np.float32)  # addresses, which nobody touches
        with pytest.raises(ValueError, match="the cpu engine takes at most 1073741824 particles a state, got 1073741825"):
            cpu_numpy.module.value(critic, np.zeros((1, 1), np.float32), particles, backend="cpu")
    except MemoryError:
        pytest.skip("this machine gives no 8 GB of addresses")


@pytest.mark.parametrize("N", [2, 3, 10, 11, 32, 33])
def test_particle_counts_that_stack_many_states(cpu_numpy, N):
    check_all(cpu_numpy, B=23, N=N, hidden=(33,))


@pytest.mark.parametrize("A", [1, 2, 8, 16, 17, 21])
@pytest.mark.parametrize("O", [0, 1, 3, 16, 40])
def test_actions_and_observations(cpu_numpy, A, O):
    check_all(cpu_numpy, A=A, O=O)


@pytest.mark.parametrize("hidden", [(5,), (5, 3)])
@pytest.mark.parametrize("O", [0, 15])
def test_more_actions_than_units(cpu_numpy, O, hidden):
    check_all(cpu_numpy, A=40, O=O, hidden=hidden)


@pytest.mark.parametrize("norm", ["pre", "none"])
def test_more_columns_than_a_plan_holds(cpu_numpy, norm):
    """A plan of which columns are needed has room for 128 vectors of them, of at most 16 numbers."""
    problem = make_problem(B=2, N=3, E=1, hidden=(2200, 2200), norm=norm)

    def run(functions, p):
        return functions.value_and_grad(p.critic, p.obs, p.particles)

    for expected, got in zip(expect_all(run, problem), run(cpu_numpy, problem)):
        expected.check(got)


@pytest.mark.parametrize("E", [1, 2, 3, 10, 13])
def test_critics(cpu, E):
    check_all(cpu, E=E)


@pytest.mark.parametrize("N", [2, 7, 300])
def test_the_median_of_many_particles_with_its_gradient(cpu_numpy, N):
    problem = make_problem(B=2, N=N, A=2)
    config = FlowConfig(num_steps=1, learning_rate=0.1, alpha=0.2, bandwidth_grad=True)

    def direction(functions, p):
        return functions.direction(p.critic, p.obs, p.particles, config)

    expect(direction, problem).check(direction(cpu_numpy, problem))


def test_duplicated_particles_share_one_direction(cpu_numpy):
    problem = make_problem(B=2, N=6)
    problem.particles[:, 3] = problem.particles[:, 0]
    phi = cpu_numpy.direction(problem.critic, problem.obs, problem.particles, CONFIG)
    np.testing.assert_array_equal(phi[:, 3], phi[:, 0])


def test_all_particles_in_one_place(cpu_numpy):
    """The median is zero: its floor keeps everything finite, and nothing repels."""
    problem = make_problem(B=2, N=6)
    problem.particles[...] = problem.particles[:, :1]
    _, dq = cpu_numpy.value_and_grad(problem.critic, problem.obs, problem.particles)
    phi = cpu_numpy.direction(problem.critic, problem.obs, problem.particles, CONFIG)
    np.testing.assert_allclose(phi, dq / CONFIG.alpha, rtol=1e-5)
