"""The median bandwidth is exact for any number of particles and any arrangement, one that fools a sample included."""

from __future__ import annotations

import numpy as np
import pytest
from accuracy import ROUND_OFF, relative_error

from vgf_kernels import FlowConfig, reference

A = 3


def spread(rng, n):
    return rng.normal(size=(n, A))


def identical(rng, n):
    return np.full((n, A), 0.25)


def many_equal(rng, n):
    """A third of all particles stand on one point."""
    x = rng.normal(size=(n, A))
    x[: n // 3] = x[0]
    return x


def two_clusters(rng, n):
    """The middle of the order falls between distances within a cluster and those across."""
    return rng.normal(size=(n, A)) * 1e-3 + np.where(np.arange(n) < n // 2, -1.0, 1.0)[:, None]


def two_points(rng, n):
    """Half of the particles on each: no number lies between the distances in the middle."""
    return np.where(np.arange(n) < n // 2, -1.0, 1.0)[:, None] * np.ones(A)


def grid(rng, n):
    """Few different distances, each many times."""
    return rng.integers(0, 3, size=(n, A)).astype(float)


def ordered(rng, n):
    """Neighbours in the array are neighbours in space."""
    return np.sort(rng.normal(size=(n, A)), axis=0)


def outliers(rng, n):
    x = rng.normal(size=(n, A))
    x[:: max(n // 5, 1)] *= 1e15
    return x


def integers(rng, n):
    """Distances that float32 holds exactly, so that float64 orders them alike."""
    return rng.integers(-1000, 1000, size=(n, A)).astype(float)


def repulsion(functions, x, bandwidth_grad, learning_rate=1.0):
    """phi without a critic: what the kernel alone does, which hangs on the bandwidth."""
    config = FlowConfig(
        num_steps=1, optimizer="sgd", learning_rate=learning_rate, clip=None, bandwidth_grad=bandwidth_grad
    )
    return functions.transport(np.zeros_like, x, config) - x


def check(engine, x, bandwidth_grad):
    """Against float64, as exact as plain float32; x is [B, N, A]."""
    x = x.astype(np.float32)
    exact = repulsion(reference, x.astype(np.float64), bandwidth_grad)
    plain = relative_error(repulsion(reference, x, bandwidth_grad), exact)
    got = repulsion(engine, x, bandwidth_grad)
    assert relative_error(got, exact) <= 2 * plain + ROUND_OFF
    return got


def check_by_one_and_two(engine, x, bandwidth_grad, monkeypatch):
    monkeypatch.setenv("VGF_NUM_THREADS", "1")
    alone = check(engine, x[None], bandwidth_grad)
    monkeypatch.setenv("VGF_NUM_THREADS", "2")
    np.testing.assert_array_equal(check(engine, x[None], bandwidth_grad), alone)


ARRANGEMENTS = [spread, identical, many_equal, two_clusters, two_points, grid, ordered, outliers, integers]
EXACTLY_ORDERED = [identical, two_points, grid, integers]


@pytest.mark.parametrize("arrange", ARRANGEMENTS)
@pytest.mark.parametrize("n", [2, 5, 127, 128, 129, 130, 301, 700])
def test_the_median(cpu_numpy, arrange, n, monkeypatch):
    check_by_one_and_two(cpu_numpy, arrange(np.random.default_rng(n), n), False, monkeypatch)


@pytest.mark.parametrize("arrange", EXACTLY_ORDERED)
@pytest.mark.parametrize("n", [2, 5, 127, 128, 129, 130, 301, 700])
def test_the_entries_in_the_middle(cpu_numpy, arrange, n, monkeypatch):
    check_by_one_and_two(cpu_numpy, arrange(np.random.default_rng(n), n), True, monkeypatch)


@pytest.mark.parametrize("far", [1e18, 1e30, 1e33])
@pytest.mark.parametrize("where", ["cpu", "emulated"])
def test_a_particle_far_away_repels_nobody(where, far, request):
    """Whatever its distance: the kernel is zero there, not the smallest number that is above it."""
    engine = request.getfixturevalue("cpu_numpy" if where == "cpu" else "emulated")
    near = (np.random.default_rng(0).normal(size=(1, 6, A)) * 1e-3).astype(np.float32)
    x = np.concatenate([near, np.full((1, 1, A), far, np.float32)], axis=1)
    config = FlowConfig(num_steps=1, optimizer="sgd", learning_rate=1.0, clip=None, bandwidth=1e-3)
    moved = engine.transport(np.zeros_like, x, config)[:, :6]
    exact = reference.transport(np.zeros_like, x.astype(np.float64), config)[:, :6]
    assert relative_error(moved - near, exact - near) < 1e-5


@pytest.mark.parametrize("n", [3, 10, 30])
@pytest.mark.parametrize("bandwidth_grad", [False, True])
def test_far_from_the_origin(cpu_numpy, n, bandwidth_grad):
    """Squares of the coordinates are infinite in float32, those of the distances are not."""
    x = (3e19 + 1e18 * np.random.default_rng(n).normal(size=(1, n, A))).astype(np.float32)
    exact = repulsion(reference, x.astype(np.float64), bandwidth_grad, learning_rate=9e36)
    assert relative_error(repulsion(cpu_numpy, x, bandwidth_grad, learning_rate=9e36), exact) < 1e-5
