"""The reference against truths that share no code with it: autograd and finite differences."""

from __future__ import annotations

import numpy as np
import plain_torch
import pytest
import torch
from problems import make_problem

from vgf_kernels import FlowConfig, reference
from vgf_kernels.mlp import ACTIVATIONS, NORMS
from vgf_kernels.reference.activations import activate


def problem64(**sizes):
    return make_problem(**sizes).at(np.float64)


@pytest.mark.parametrize("aggregate", ["mean", "min"])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradient_is_autograds(activation, norm, aggregate):
    p = problem64(activation=activation, norm=norm, hidden=(17, 33, 9), E=3)
    q, dq = reference.value_and_grad(p.critic, p.obs, p.particles, aggregate)
    obs, x = torch.from_numpy(p.obs), torch.from_numpy(p.particles)
    np.testing.assert_allclose(q, plain_torch.value(p.critic, obs, x), rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(dq, plain_torch.gradient(p.critic, obs, x, aggregate), rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_large_numbers_overflow_nowhere(activation):
    z = np.float32([-1e4, -100, 0, 100, 1e4])
    with np.errstate(over="raise", invalid="raise"):
        for got in activate(activation, z):
            assert np.isfinite(got).all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradient_is_the_slope(activation, norm):
    p = problem64(activation=activation, norm=norm, hidden=(17, 33), E=2)
    _, dq = reference.value_and_grad(p.critic, p.obs, p.particles, "mean")
    h = 1e-6  # truncation h^2, cancellation eps/h: both below 1e-9
    for k in range(p.particles.shape[2]):
        step = np.zeros(p.particles.shape[2])
        step[k] = h
        up = reference.value(p.critic, p.obs, p.particles + step).mean(axis=0)
        down = reference.value(p.critic, p.obs, p.particles - step).mean(axis=0)
        np.testing.assert_allclose(dq[:, :, k], (up - down) / (2 * h), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("bandwidth", ["median", 0.4])
@pytest.mark.parametrize("kernel", ["rbf", None])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("clip", [(-1.0, 1.0), None])
def test_flow_is_the_one_written_in_torch(optimizer, kernel, bandwidth, clip):
    p = problem64(N=6, activation="silu")
    config = FlowConfig(
        num_steps=4,
        learning_rate=0.3,
        alpha=0.2,
        optimizer=optimizer,
        kernel=kernel,
        bandwidth=bandwidth,
        clip=clip,
    )
    wanted = plain_torch.flow(p.critic, torch.from_numpy(p.obs), torch.from_numpy(p.particles), config)
    got = reference.flow(p.critic, p.obs, p.particles, config)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-9)


def test_sample_follows_the_velocity_field():
    p = problem64(N=4, activation="gelu")
    steps = 5
    x = torch.from_numpy(p.noise)
    obs = torch.from_numpy(p.obs)[:, None].expand(-1, x.shape[1], -1)
    for i in range(steps):
        t = torch.full((*x.shape[:2], 1), i / steps, dtype=x.dtype)
        x = x + plain_torch.forward(p.policy, torch.cat([obs, x, t], dim=-1))[0] / steps
    np.testing.assert_allclose(reference.sample(p.policy, p.obs, p.noise, steps, None), x, rtol=0, atol=1e-11)
    clipped = reference.sample(p.policy, p.obs, p.noise, steps, (-0.5, 0.25))
    np.testing.assert_allclose(clipped, x.clamp(-0.5, 0.25), rtol=0, atol=1e-11)


@pytest.mark.parametrize("apart", [0.0, 1e-5, 1e-3])
def test_the_direction_in_float32_where_particles_nearly_coincide(apart):
    """The kernel is as narrow as they are close, so round-off of their positions must not reach the repulsion."""
    p = make_problem(B=4, N=6)
    spread = 1 + apart * np.random.default_rng(0).normal(size=p.particles[:, :6].shape)
    particles = (np.repeat(p.particles[:, :1], 6, axis=1) * spread).astype(np.float32)
    truth = p.at(np.float64)
    wanted = reference.direction(truth.critic, truth.obs, particles.astype(np.float64), FlowConfig())
    got = reference.direction(p.critic, p.obs, particles, FlowConfig())
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-6 * np.abs(wanted).max())
