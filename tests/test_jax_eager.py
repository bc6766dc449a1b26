"""The JAX frontend outside of jit: nothing compiled at every call, and the same numbers as inside."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import make_mlp
from test_jax_tracing import BACKENDS, CONFIG, PARAMS, PROBLEM, flow, network

import vgf_kernels.jax as vgf


def compilations(call):
    """How many computations XLA compiles while `call` runs."""
    before = len(COMPILED)
    jax.block_until_ready(call())
    return len(COMPILED) - before


COMPILED: list[str] = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, seconds, **rest: COMPILED.append(event) if event.endswith("backend_compile_duration") else None
)


@pytest.mark.parametrize("trajectory", [False, True], ids=["", "trajectory"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_eager_calls_compile_once(backend, trajectory):
    """A score_fn made anew, a vmap over networks, and callbacks would otherwise be compiled, and kept, in every call."""
    x, obs = PROBLEM.particles, PROBLEM.obs
    A = x.shape[2]
    score = vgf.Network.from_mlp(make_mlp(np.random.default_rng(1), (obs.shape[1] + A, 8, A), 1, "relu", "none"))
    stacked = jax.tree.map(lambda a: jnp.stack([a, 2 * a]), PARAMS["critic"])
    rest = {"trajectory": trajectory, "backend": backend}
    calls = [
        lambda: vgf.transport(lambda x: -x, x, CONFIG, **rest),
        lambda: vgf.transport(score, x, CONFIG, obs=obs, max_norm=0.1, **rest),
        lambda: flow(network(PARAMS["critic"]), x, **rest),
    ]
    if backend == "cpu":  # JAX itself compiles a callback under vmap every time
        calls.append(lambda: jax.vmap(lambda params: flow(network(params), x, **rest))(stacked))
        calls.append(lambda: jax.vmap(jax.vmap(lambda x: vgf.transport(lambda x: -x, x, CONFIG, **rest)))(jnp.asarray(x)[None, None]))
    for call in calls:
        jax.clear_caches()
        assert compilations(call) > 0
        assert compilations(call) == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_transport_is_the_same_inside_jit(backend):
    p = PROBLEM

    def run(x, num_steps=None, trajectory=False):
        return vgf.transport(lambda x: -x, x, CONFIG, trajectory, num_steps=num_steps, max_norm=0.3, backend=backend)

    path = run(p.particles, trajectory=True)
    assert path.shape == (CONFIG.num_steps + 1, *p.particles.shape)
    np.testing.assert_array_equal(jax.jit(lambda x: run(x, trajectory=True))(p.particles), path)
    mapped = jax.vmap(run)(np.stack([p.particles, -p.particles]))
    np.testing.assert_array_equal(mapped, jax.jit(jax.vmap(run))(np.stack([p.particles, -p.particles])))
    for steps in range(CONFIG.num_steps + 1):
        for got in (run(p.particles, steps), run(p.particles, jnp.asarray(steps)), jax.jit(run)(p.particles, steps)):
            np.testing.assert_array_equal(got, path[steps])


def test_transport_of_constant_particles_is_a_loop_inside_jit():
    """Not one call of the engine after the other, as outside."""

    particles = jnp.asarray(PROBLEM.particles)

    def run(scale):
        return vgf.transport(lambda x: scale * x, particles, CONFIG)

    assert jax.jit(run).lower(-1.0).as_text().count("@vgf_update") == 1
    np.testing.assert_array_equal(jax.jit(run)(-1.0), run(-1.0))


CALLS = {
    "vgf_flow": lambda x: flow(network(PARAMS["critic"]), x),
    "vgf_jacobian": jax.grad(lambda x: vgf.value(network(PARAMS["critic"]), PROBLEM.obs, x).sum()),
    "vgf_update": lambda x: vgf.transport(lambda x: -x, x, CONFIG),
}


@pytest.mark.parametrize("jitted", [False, True], ids=["", "jit"])
@pytest.mark.parametrize("name", CALLS)
def test_jax_debug_nans_names_the_call(name, jitted):
    call = jax.jit(CALLS[name]) if jitted else CALLS[name]
    x = PROBLEM.particles
    wanted = call(x)
    bad = x.copy()
    bad[0, 0, 0] = np.inf  # NaN itself JAX would find where it comes in
    with jax.debug_nans(True):
        np.testing.assert_array_equal(call(x), wanted)
        with pytest.raises(FloatingPointError, match=rf"nan.* encountered in {name}\b"):
            jax.block_until_ready(call(bad))
        with pytest.raises(FloatingPointError, match=r"nan.* encountered in log\b"):  # what follows a call is still found
            jax.jit(lambda x: jnp.log(call(x) - 1e6))(x)
