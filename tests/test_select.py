"""Picking one particle a state."""

from __future__ import annotations

import numpy as np
import pytest

Q = np.array([[0.1, 0.9, 0.9, -1.0], [2.0, -3.0, 0.5, 1.0]], np.float32)
DRAWS = 40_000


def draw(engine, q, how, **kwargs):
    """How often each of the particles of `q` [N] is picked."""
    noise = np.random.default_rng(0).uniform(size=(DRAWS, len(q))).astype(np.float32).clip(1e-6, 1 - 1e-6)
    rows = np.ascontiguousarray(np.broadcast_to(q, noise.shape))
    index = engine.select(rows, how, noise=noise, **kwargs)
    return np.bincount(index, minlength=len(q)) / DRAWS


def check_frequencies(got, probabilities):
    deviation = np.sqrt(probabilities * (1 - probabilities) / DRAWS)
    assert (np.abs(got - probabilities) <= 5 * deviation).all(), (got, probabilities)


def test_max_takes_the_first_largest(engine):
    index = engine.select(Q)
    np.testing.assert_array_equal(index, [1, 0])
    assert index.dtype == (np.int32 if engine.frontend == "jax" else np.int64)  # JAX without its x64 mode


def test_the_ensemble_is_aggregated_first(engine):
    state = np.array([[6, 5, 2], [-9, 0, 1]], np.float32)  # one critic's, the mean's and the smallest's largest differ
    q = np.stack([state, state[:, ::-1]], axis=1)
    np.testing.assert_array_equal(engine.select(q[0]), [0, 2])
    np.testing.assert_array_equal(engine.select(q, aggregate="mean"), [1, 1])
    np.testing.assert_array_equal(engine.select(q, aggregate="min"), [2, 0])


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_softmax_draws_with_its_probabilities(engine, temperature):
    q = Q[1]
    odds = np.exp((q - q.max()) / temperature)
    check_frequencies(draw(engine, q, "softmax", temperature=temperature), odds / odds.sum())


@pytest.mark.filterwarnings("error")
def test_noise_of_zero_is_never_taken(engine):
    """Generators draw it."""
    np.testing.assert_array_equal(engine.select(Q[:1], "softmax", noise=np.array([[0, 0, 0.5, 0]], np.float32)), [2])


def test_uniform_draws_ignore_the_value(engine):
    check_frequencies(draw(engine, Q[1], "uniform"), np.full(4, 0.25))
