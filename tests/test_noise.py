"""Drawing noise: standard normal float32 from each frontend's own kind of source."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import torch
from engines import FRONTENDS, Engine

import vgf_kernels.jax

SOURCES = {
    "numpy": np.random.default_rng,
    "torch": lambda seed: torch.Generator().manual_seed(seed),
    "jax": jax.random.PRNGKey,
}


@pytest.fixture(params=FRONTENDS)
def frontend(request):
    return Engine(request.param, "cpu")


def draw(frontend, seed, *sizes):
    return np.asarray(frontend.module.draw_noise(SOURCES[frontend.frontend](seed), *sizes))


def test_it_is_standard_normal(frontend):
    """By its first moments, each within five deviations of what so many numbers have."""
    noise = draw(frontend, 0, 100, 50, 8)
    assert noise.shape == (100, 50, 8) and noise.dtype == np.float32
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((noise**power).mean() - moment) < 5 * np.sqrt(variance / noise.size)


def test_a_source_gives_the_same_again(frontend):
    first, again, other = (draw(frontend, seed, 5, 4, 3) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("sizes", [(0, 2, 3), (1, -1, 3), (1, 2, None), (1, 2.0, 3), (True, 2, 3)])
def test_sizes_that_are_refused(frontend, sizes):
    with pytest.raises(ValueError, match="[BNA]: expected an integer >= 1, got .*; noise is .B, N, A."):
        draw(frontend, 0, *sizes)


@pytest.mark.parametrize("frontend", ["numpy", "torch"])
def test_no_source(frontend):
    for source in (None, 0):
        with pytest.raises(TypeError, match=f"expected a .*Generator, got {type(source).__name__}; "):
            Engine(frontend, "cpu").module.draw_noise(source, 1, 2, 3)


def test_jax_draws_what_the_official_agent_draws():
    key = jax.random.PRNGKey(3)
    np.testing.assert_array_equal(vgf_kernels.jax.draw_noise(key, 2, 4, 3), jax.random.normal(key, (2, 4, 3)))


def test_jax_is_given_no_key():
    for key in (None, 0):
        with pytest.raises(TypeError, match=f"key: expected a key of jax.random, got {type(key).__name__}; "):
            vgf_kernels.jax.draw_noise(key, 1, 2, 3)
