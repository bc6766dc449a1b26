"""The JAX frontend under vmap: one call of the engine, and the same numbers as one by one."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from problems import make_problem
from test_jax_tracing import BACKENDS, CONFIG, PARAMS, PROBLEM, expected_flow, flow, network

import vgf_kernels.jax as vgf
import vgf_kernels.numpy


@pytest.mark.parametrize("backend", BACKENDS)
def test_vmap_over_particles_obs_or_both(backend):
    p, critic = PROBLEM, network(PARAMS["critic"])
    xs = np.stack([p.particles, -p.particles, p.particles / 2])
    states = np.stack([p.obs, p.obs + 1, -p.obs])

    def run(obs, x):
        return vgf.flow(critic, obs, x, CONFIG, True, backend=backend)

    def wanted(obs, x):
        return vgf_kernels.numpy.flow(p.critic, obs, x, CONFIG, True, backend=backend)

    each = [wanted(p.obs, x) for x in xs]
    np.testing.assert_array_equal(jax.vmap(run, (None, 0))(p.obs, xs), each)
    np.testing.assert_array_equal(
        jax.vmap(run, (0, None))(states, p.particles), [wanted(o, p.particles) for o in states]
    )
    np.testing.assert_array_equal(
        jax.jit(jax.vmap(run))(states, xs), [wanted(o, x) for o, x in zip(states, xs)]
    )
    moved = jax.vmap(run, (None, 2), 1)(p.obs, np.moveaxis(xs, 0, 2))
    np.testing.assert_array_equal(np.moveaxis(moved, 1, 0), each)
    np.testing.assert_array_equal(jax.vmap(jax.vmap(run, (None, 0)), (0, None))(states, xs)[0], each)


@pytest.mark.parametrize("O", [0, 3], ids=["no observations", "observations"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_vmap_of_every_function(backend, O):
    critic, target_critic, policy = (p := make_problem(B=4, N=5, O=O, seed=6)).critic, p.target_critic, p.policy

    def everything(obs, x, noise, reward):
        states = {"config": CONFIG, "backend": backend}
        return (
            vgf.value(critic, obs, x, backend=backend),
            vgf.value_and_grad(critic, obs, x, backend=backend),
            vgf.direction(critic, obs, x, **states),
            vgf.flow(critic, obs, x, **states),
            vgf.sample(policy, obs, noise, 2, backend=backend),
            vgf.act(critic, policy, obs, noise, 2, **states),
            vgf.act(critic, policy, obs, noise, 2, select="softmax", select_noise=p.select_noise, **states),
            vgf.td_target(critic, target_critic, policy, obs, noise, reward, p.mask, 0.9, 2, **states),
        )

    each = [(p.obs, p.particles, p.noise, p.reward), (-p.obs, -p.particles, p.noise / 2, p.reward + 1)]
    got = jax.vmap(everything)(*map(np.stack, zip(*each)))
    wanted = jax.tree.map(lambda *results: np.stack(results), *[everything(*arrays) for arrays in each])
    jax.tree.map(np.testing.assert_array_equal, got, wanted)


def test_vmap_over_as_many_as_there_will_be():
    """Exported for any number along both axes: sizes are symbols, whose products are folded."""
    critic, p = network(PARAMS["critic"]), PROBLEM
    many, states = export.symbolic_shape("many, states")
    run = jax.jit(jax.vmap(lambda obs, x: vgf.flow(critic, obs, x, CONFIG), (None, 0)))
    shapes = [jax.ShapeDtypeStruct(s, np.float32) for s in ((states, *p.obs.shape[1:]), (many, states, *p.particles.shape[1:]))]
    kept = [export.DisabledSafetyCheck.custom_call(f"vgf_{name}") for name in ("pack", "flow")]
    exported = export.export(run, disabled_checks=kept)(*shapes)
    for count in (1, 3):
        xs = np.stack([p.particles * s for s in (1, -1, 0.5)])[:count]
        np.testing.assert_array_equal(exported.call(p.obs, xs), [expected_flow(x=x) for x in xs])


def test_vmap_is_one_call_of_the_engine():
    critic = vgf.pack(network(PARAMS["critic"]))
    xs = np.stack([PROBLEM.particles] * 3)
    text = jax.jit(jax.vmap(lambda x: flow(critic, x))).lower(xs).as_text()
    assert text.count("@vgf_flow") == 1
    assert "while" not in text


def test_vmap_over_parameters_and_step_counts():
    trees = [PARAMS["critic"], jax.tree.map(lambda a: a * np.float32(1.1), PARAMS["critic"])]
    stacked = jax.tree.map(lambda *a: jnp.stack(a), *trees)
    got = jax.vmap(lambda params: flow(network(params), PROBLEM.particles))(stacked)
    wanted = [expected_flow(vgf.MLP.from_flax(tree, norm_eps=1e-5)) for tree in trees]
    np.testing.assert_array_equal(got, wanted)
    critic = network(PARAMS["critic"])
    got = jax.vmap(lambda n: flow(critic, PROBLEM.particles, num_steps=n))(jnp.arange(4))
    np.testing.assert_array_equal(got, flow(critic, PROBLEM.particles, trajectory=True))


def test_vmap_of_grad():
    critic = network(PARAMS["critic"])
    xs = np.stack([PROBLEM.particles, -PROBLEM.particles])
    gradient = jax.grad(lambda x: jnp.sum(vgf.value(critic, PROBLEM.obs, x)))
    np.testing.assert_array_equal(jax.vmap(gradient)(xs), [gradient(x) for x in xs])


def test_vmap_over_nothing_is_refused():
    critic = network(PARAMS["critic"])
    with pytest.raises(ValueError, match="vmap: expected at least one along the mapped axis, got 0; skip empty calls"):
        jax.vmap(lambda x: vgf.value(critic, PROBLEM.obs, x))(jnp.zeros((0, *PROBLEM.particles.shape)))
