"""Particles moved along a learned score: a network that the engine evaluates, its norm bounded over the batch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from accuracy import ORDERS, Expected
from problems import cast, change_layers, make_mlp, make_problem, reordered

import vgf_kernels.jax as vgf
from vgf_kernels import FlowConfig
from vgf_kernels.reference import transport
from vgf_kernels.reference.mlp import forward

B, N, O, A = 5, 6, 4, 3
PROBLEM = make_problem(B=B, N=N, O=O, A=A)
SCORE = make_mlp(np.random.default_rng(1), (O + A, 33, 17, A), 1, "relu", "none")
CONFIG = FlowConfig(num_steps=3, learning_rate=0.1, alpha=1 / N, kernel=None)


def defined(score, dtype, max_norm, config=CONFIG):
    """The definition: the network by the reference, and its norm over the whole batch."""
    obs, x = PROBLEM.obs.astype(dtype), PROBLEM.particles.astype(dtype)
    (layers,) = change_layers(score, lambda layers: cast(layers, dtype)).members

    def score_fn(x):
        rows = np.concatenate([np.repeat(obs[:, None], N, axis=1), x], axis=-1).reshape(B * N, -1)
        dq = forward(layers, rows, score.activation, score.norm, score.norm_eps).reshape(x.shape)
        norm = np.sqrt((dq * dq).sum())
        return dq if max_norm is None or norm < max_norm else dq / norm * dtype(max_norm)

    return transport(score_fn, x, config)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("max_norm", [None, 0.5, 1e6, 10**20])
def test_the_engine_evaluates_the_score(backend, max_norm):
    plain = [defined(s, np.float32, max_norm) for s in (SCORE, *(reordered(SCORE, i) for i in range(ORDERS)))]
    expected = Expected(defined(SCORE, np.float64, max_norm), plain)
    score = vgf.Network.from_mlp(SCORE)

    @jax.jit
    def run(score, x):
        return vgf.transport(score, x, CONFIG, obs=PROBLEM.obs, max_norm=max_norm, backend=backend)

    expected.check_share(np.asarray(run(score, PROBLEM.particles)))


def test_a_packed_score_moves_as_the_score_does():
    score = vgf.Network.from_mlp(SCORE)
    packed = jax.jit(lambda score: vgf.pack(score, role="score", observations=O))(score)
    wanted, got = (
        vgf.transport(s, PROBLEM.particles, CONFIG, obs=PROBLEM.obs, max_norm=0.5) for s in (score, packed)
    )
    np.testing.assert_array_equal(got, wanted)


def test_the_norm_is_that_of_the_whole_batch():
    """So other states in the batch change what a state does, unlike anywhere else in the library."""
    config = FlowConfig(num_steps=1, optimizer="sgd", learning_rate=0.1, alpha=1 / N, kernel=None, clip=None)

    def run(states):
        particles = PROBLEM.particles[states]
        return vgf.transport(lambda x: x, particles, config, max_norm=0.5) - particles

    alone, together = run(slice(0, 1)), run(slice(0, 5))
    assert abs(float(jnp.linalg.norm(alone)) - 0.05) < 1e-6
    assert abs(float(jnp.linalg.norm(together)) - 0.05) < 1e-6


def test_a_function_may_be_the_score_too():
    def score_fn(x):
        return jnp.tanh(x)

    got = vgf.transport(score_fn, PROBLEM.particles, CONFIG, max_norm=0.5)
    halved = vgf.transport(
        lambda x: score_fn(x) * 0.5 / jnp.linalg.norm(score_fn(x)), PROBLEM.particles, CONFIG
    )
    np.testing.assert_allclose(got, halved, atol=1e-6)


def test_the_path_is_constant():
    gradient = jax.grad(lambda x: vgf.transport(jnp.sin, x, CONFIG, True).sum())(PROBLEM.particles)
    assert not gradient.any()


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_a_learned_score_its_observations_and_the_particles_are_constants(backend):
    def moved(score, obs, x):
        return vgf.transport(score, x, CONFIG, obs=obs, max_norm=0.5, backend=backend).sum()

    gradients = jax.grad(moved, argnums=(0, 1, 2))(vgf.Network.from_mlp(SCORE), PROBLEM.obs, PROBLEM.particles)
    assert not any(leaf.any() for leaf in jax.tree.leaves(gradients))


def test_what_is_refused():
    x, score = PROBLEM.particles, vgf.Network.from_mlp(SCORE)
    with pytest.raises(TypeError, match="obs: expected None with a function"):
        vgf.transport(jnp.sin, x, CONFIG, obs=PROBLEM.obs)
    with pytest.raises(TypeError, match=r"obs: expected an array \[B, O\], .* got None; pass obs="):
        vgf.transport(score, x, CONFIG)
    with pytest.raises(ValueError, match=r"obs: expected \[B, O\] with B = 5 states, got shape \[4, 4\]"):
        vgf.transport(score, x, CONFIG, obs=PROBLEM.obs[:-1])
    with pytest.raises(
        ValueError, match=r"score_fn: expected one member from O \+ A = 7 inputs to A = 3 outputs, got 2"
    ):
        vgf.transport(PROBLEM.critic, x, CONFIG, obs=PROBLEM.obs)
    with pytest.raises(
        ValueError, match="score_fn: expected weights packed with role='score', got role='policy'"
    ):
        vgf.transport(vgf.pack(score), x, CONFIG, obs=PROBLEM.obs)
    packed = vgf.pack(score, role="score", observations=O)
    with pytest.raises(ValueError, match="policy: expected weights packed with role='policy', got 'score'"):
        vgf.sample(packed, PROBLEM.obs, x, 3)
    with pytest.raises(ValueError, match="packed weights are a compiled engine's"):
        vgf.transport(packed, x, CONFIG, obs=PROBLEM.obs, backend="reference")
    with pytest.raises(ValueError, match="max_norm: expected a finite number > 0, got 0"):
        vgf.transport(score, x, CONFIG, obs=PROBLEM.obs, max_norm=0)
