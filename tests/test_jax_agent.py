"""The flax agent of python/examples: 20 updates on the library end where plain JAX ends, within its round-off."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from accuracy import ROUND_OFF

sys.path.insert(0, str(Path(__file__).parents[1] / "python" / "examples"))

from flax_agent import fused, plain
from flax_agent.learner import Batch, Settings, create, update

from vgf_kernels import FlowConfig

OBS, ACTIONS, STATES, UPDATES = 11, 3, 16, 20
ORDERS = 3
CONFIG = FlowConfig(num_steps=2, learning_rate=0.1, alpha=0.5, bandwidth_grad=True)
SETTINGS = Settings(hidden=(48, 32), particles=6, euler_steps=3, config=CONFIG, target_rate=0.05)


@pytest.fixture
def x64():
    """JAX's float64, for the truth."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


def batches(order: int) -> list[Batch]:
    rng = np.random.default_rng(4)
    places = np.random.default_rng(order).permutation(STATES)

    def one() -> Batch:
        obs, next_obs = rng.standard_normal((2, STATES, OBS), np.float32)
        actions = np.tanh(rng.standard_normal((STATES, ACTIONS), np.float32))
        reward = rng.standard_normal(STATES, np.float32)
        mask = (rng.random(STATES) < 0.8).astype(np.float32)
        return Batch(*(array[places] for array in (obs, actions, reward, mask, next_obs)))

    return [one() for _ in range(UPDATES)]


def cast(tree, dtype):
    return jax.tree.map(lambda a: a.astype(dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a, tree)


def flat(tree) -> np.ndarray:
    """All arrays as one float64 vector."""
    return np.concatenate([np.ravel(a).astype(np.float64) for a in jax.tree.leaves(tree)])


def trained(settings, implementation, dtype=np.float32):
    """How the parameters of all networks, as one vector, have moved by the updates, for every order of the states."""
    start = cast(create(jax.random.PRNGKey(2), OBS, ACTIONS, settings), dtype)
    step = jax.jit(partial(update, settings=settings, implementation=implementation))
    moves = []
    for order in range(ORDERS):
        state = start
        for batch in batches(order):
            state, _ = step(state, cast(batch, dtype))
        end = (state.params, state.target_critic)
        assert {a.dtype for a in jax.tree.leaves(end)} == {np.dtype(dtype)}
        moves.append(flat(end) - flat((start.params, start.target_critic)))
    return moves


@pytest.mark.parametrize(
    "settings",
    [
        SETTINGS,
        replace(SETTINGS, aggregate="mean", reduce="max", config=replace(CONFIG, aggregate="min")),
        replace(SETTINGS, amortized=True, max_norm=0.5),
    ],
    ids=["official", "other-aggregates", "amortized"],
)
def test_twenty_updates(settings, x64):
    """Adam turns round-off in a tiny gradient into a step, so errors are large; plain JAX has them as well.

    Where a relu is crossed by chance, one run's error doubles, so medians over orders of the states are compared.
    """

    exact = trained(settings, plain, np.float64)

    def error(implementation):
        moves = zip(trained(settings, implementation), exact)
        return np.median([np.linalg.norm(move - truth) / np.linalg.norm(truth) for move, truth in moves])

    errors = {implementation: error(implementation) for implementation in (plain, fused)}
    assert errors[fused] <= 2 * errors[plain] + ROUND_OFF
    assert errors[plain] < 0.01  # the bar is no higher than one step in a hundred


@pytest.mark.parametrize("amortized", [False, True])
def test_actions(amortized):
    settings = replace(SETTINGS, amortized=amortized)
    networks = create(jax.random.PRNGKey(3), OBS, ACTIONS, settings).params
    rng = np.random.default_rng(5)
    obs = rng.standard_normal((64, OBS), np.float32)
    noise = rng.standard_normal((64, settings.particles, ACTIONS), np.float32)
    wanted = jax.jit(partial(plain.act, settings=settings))(networks, obs=obs, noise=noise)
    got = fused.act(networks, settings, obs, noise)
    close = np.abs(got - wanted).max(axis=1) < 1e-4
    assert close.mean() > 0.95  # elsewhere two particles are as good as each other
    np.testing.assert_array_equal(fused.act(fused.pack(networks, settings), settings, obs, noise), got)


def test_the_amortized_step_is_not_the_critics():
    """Without its own networks and its bound on the norm, the comparison above would prove nothing."""
    settings = replace(SETTINGS, amortized=True)
    networks = create(jax.random.PRNGKey(3), OBS, ACTIONS, settings).params
    rng = np.random.default_rng(5)
    obs = rng.standard_normal((8, OBS), np.float32)
    noise = rng.standard_normal((8, settings.particles, ACTIONS), np.float32)
    moves = [
        fused.along_the_score(networks, replace(settings, max_norm=bound), obs, noise)
        for bound in (1e-7, 1.0)
    ]
    assert np.abs(moves[0] - moves[1]).max() > 0.01
    for bound, x in zip((1e-7, 1.0), moves):
        move = jax.jit(partial(plain.move, settings=replace(settings, max_norm=bound)))
        wanted = move(networks, obs=obs, noise=noise)
        assert np.abs(x - wanted).max() < 0.01
