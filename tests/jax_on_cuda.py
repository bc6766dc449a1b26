"""What the JAX frontend must do on the CUDA engine, on a GPU or emulated: the same numbers, and nothing compiled twice."""

from __future__ import annotations

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from accuracy import expect, expect_all
from test_accuracy import CONFIG

import vgf_kernels.jax as vgf

on_cuda = functools.partial(functools.partial, backend="cuda")


class InJit:
    """The JAX frontend on the CUDA engine, jitted, with networks and arrays as arguments. Called with NumPy arrays."""

    def __getattr__(self, name):
        function = on_cuda(getattr(vgf, name))

        def call(*args, **kwargs):
            traced = {i: traceable(a) for i, a in enumerate(args) if isinstance(a, (np.ndarray, vgf.MLP))}

            def run(traced):
                return function(*(traced.get(i, a) for i, a in enumerate(args)), **kwargs)

            return jax.tree.map(np.asarray, jax.jit(run)(traced))

        return call


def traceable(argument):
    return vgf.Network.from_mlp(argument) if isinstance(argument, vgf.MLP) else argument


def everything(functions, p, config=CONFIG):
    """A list of results of every function."""
    networks = (p.critic, p.target_critic, p.policy)
    rest = (p.obs, p.noise, p.reward, p.mask, 0.97, 3, config)
    return [
        functions.value(p.critic, p.obs, p.particles),
        *functions.value_and_grad(p.critic, p.obs, p.particles, "min"),
        functions.direction(p.critic, p.obs, p.particles, config),
        functions.flow(p.critic, p.obs, p.particles, config, True),
        functions.flow(p.critic, p.obs, p.particles, config),
        functions.sample(p.policy, p.obs, p.noise, 3),
        functions.act(p.critic, p.policy, p.obs, p.noise, 3, config),
        functions.act(
            p.critic, p.policy, p.obs, p.noise, 3, config, "softmax", "min", select_noise=p.select_noise
        ),
        functions.act(p.critic, p.policy, p.obs, p.noise, 3, config, "uniform", select_noise=p.select_noise),
        functions.td_target(*networks, *rest, "min", "mean"),
        functions.td_target(*networks, *rest, "mean", "max"),
        functions.transport(lambda x: x * x - x, p.particles, config),
    ]


def check_everything(p, config=CONFIG):
    expected = expect_all(lambda f, p: everything(f, p, config), p)
    for wanted, got in zip(expected, everything(InJit(), p, config)):
        wanted.check_share(got)


def check_counts(p):
    """Step counts that are traced: one compilation, whatever they are."""
    networks = [vgf.Network.from_mlp(n) for n in (p.critic, p.target_critic, p.policy)]

    @jax.jit
    def run(steps, euler_steps):
        run.traced += 1
        critic, _, policy = networks
        counts = {"num_steps": steps, "backend": "cuda"}
        return (
            vgf.flow(critic, p.obs, p.particles, CONFIG, **counts),
            vgf.act(critic, policy, p.obs, p.noise, euler_steps, CONFIG, **counts),
            vgf.td_target(
                *networks, p.obs, p.noise, p.reward, p.mask, 0.97, euler_steps, CONFIG, **counts
            ),
            vgf.transport(lambda x: x * x - x, p.particles, CONFIG, **counts),
            vgf.sample(policy, p.obs, p.noise, euler_steps, backend="cuda"),
        )

    def defined(functions, p, steps, euler_steps):
        config = replace(CONFIG, num_steps=steps)
        networks, arrays = (p.critic, p.target_critic, p.policy), (p.obs, p.noise)
        return (
            functions.flow(p.critic, p.obs, p.particles, config),
            functions.act(p.critic, p.policy, *arrays, euler_steps, config),
            functions.td_target(*networks, *arrays, p.reward, p.mask, 0.97, euler_steps, config),
            functions.transport(lambda x: x * x - x, p.particles, config),
            functions.sample(p.policy, *arrays, euler_steps),
        )

    run.traced = 0
    for counts in ((0, 1), (2, 3), (3, 2)):
        expected = expect_all(lambda f, p, counts=counts: defined(f, p, *counts), p)
        for wanted, got in zip(expected, run(*counts)):
            wanted.check_share(np.asarray(got))
    assert run.traced == 1


def check_vmap(p):
    """Over states, over weights, and over step counts."""
    critic = vgf.Network.from_mlp(p.critic)
    flow = functools.partial(vgf.flow, backend="cuda")
    alone = np.asarray(flow(critic, p.obs, p.particles, CONFIG))
    folded = jax.vmap(lambda x: flow(critic, p.obs, x, CONFIG))(np.stack([p.particles, -p.particles]))
    np.testing.assert_array_equal(folded[0], alone)
    both = jax.tree.map(lambda a: jnp.stack([a, a]), critic)
    np.testing.assert_array_equal(jax.vmap(lambda c: flow(c, p.obs, p.particles, CONFIG))(both)[1], alone)
    counted = jax.vmap(lambda n: flow(critic, p.obs, p.particles, CONFIG, num_steps=n))(jnp.arange(3))
    np.testing.assert_array_equal(counted[0], p.particles)
    two = replace(CONFIG, num_steps=2)
    np.testing.assert_array_equal(counted[2], flow(critic, p.obs, p.particles, two))


def check_gradient(p):
    critic = vgf.Network.from_mlp(p.critic)

    def defined(functions, p):
        return functions.value_and_grad(p.critic, p.obs, p.particles)[1] * p.critic.ensemble

    got = jax.jit(jax.grad(lambda x: vgf.value(critic, p.obs, x, backend="cuda").sum()))(p.particles)
    expect(defined, p).check(np.asarray(got))


def check_packed(p):
    """Packed once, the same numbers; and refused where the layout would be another."""
    O = p.obs.shape[1]
    networks = [vgf.Network.from_mlp(n) for n in (p.critic, p.policy)]
    packed = [
        jax.jit(on_cuda(vgf.pack, role=role, observations=O))(network)
        for network, role in zip(networks, ("critic", "policy"))
    ]
    arguments = (p.obs, p.noise, 3, CONFIG)
    np.testing.assert_array_equal(vgf.act(*packed, *arguments), on_cuda(vgf.act)(*networks, *arguments))
    return packed
