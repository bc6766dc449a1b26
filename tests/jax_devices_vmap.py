"""Run by test_jax_sharding.py in a process with four CPU devices: what is spread stays where it is under vmap, too."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from problems import make_problem

import vgf_kernels.jax as vgf
from vgf_kernels import FlowConfig, reference

CONFIG = FlowConfig(num_steps=3, learning_rate=0.1, alpha=0.3)
SEEDS = 4
PROBLEMS = [make_problem(B=8, N=10, seed=seed) for seed in range(SEEDS)]
KEYS = jax.random.split(jax.random.PRNGKey(0), SEEDS)
STEPS = np.arange(SEEDS, dtype=np.int32)
NETWORKS = ("critic", "target_critic", "policy")
OF_STATES = ("obs", "particles", "noise", "reward", "mask")
MESHES = ((1, 4), (2, 2))  # seeds, states


# ---- functions of some fields, by vgf on arrays and by the reference in float64; states are the first axis of the result


def flow(engine, critic, obs, particles):
    return engine.flow(critic, obs, particles, CONFIG)


def flow_of_packed(engine, critic, obs, particles):
    return flow(engine, critic if engine is reference else vgf.pack(critic), obs, particles)


def steps(engine, critic, obs, particles, num_steps):
    if engine is reference:
        return reference.flow(critic, obs, particles, dataclasses.replace(CONFIG, num_steps=int(num_steps)))
    return vgf.flow(critic, obs, particles, CONFIG, num_steps=num_steps)


def path(engine, critic, obs, particles):
    return engine.flow(critic, obs, particles, CONFIG, True).swapaxes(0, 1)


def nested(engine, critic, obs, particles):
    """Twice as many particles, mapped by another vmap."""
    if engine is reference:
        return np.stack([flow(engine, critic, obs, particles), flow(engine, critic, obs, -particles)], axis=1)
    return jax.vmap(lambda x: flow(engine, critic, obs, x), out_axes=1)(jnp.stack([particles, -particles]))


def gradient(engine, critic, obs, particles):
    if engine is reference:
        return reference.value_and_grad(critic, obs, particles)[1]
    return jax.grad(lambda x: vgf.value(critic, obs, x).mean(axis=0).sum())(particles)


def act(engine, critic, policy, obs, key):
    noise = vgf.draw_noise(key, *PROBLEMS[0].noise.shape)
    return engine.act(critic, policy, obs, np.float64(noise) if engine is reference else noise, 3, CONFIG)


def td_target(engine, critic, target_critic, policy, obs, noise, reward, mask):
    return engine.td_target(critic, target_critic, policy, obs, noise, reward, mask, 0.99, 3, CONFIG)


CASES = [
    (flow, ("particles",)),
    (flow, ("obs", "particles")),
    (flow, ("critic",)),
    (flow_of_packed, ("critic",)),
    (steps, ("num_steps",)),
    (path, ("particles",)),
    (nested, ("particles",)),
    (nested, ("critic",)),
    (gradient, ("particles",)),
    (act, ("key",)),
    (td_target, ("noise",)),
    (td_target, (*NETWORKS, "noise")),
]


def given(name: str, seed: int, exact: bool):
    """A field of the problem of a seed, in float64 for the reference."""
    of_all = {"key": KEYS, "num_steps": STEPS}
    if name in of_all:
        return of_all[name][seed]
    field = getattr(PROBLEMS[seed].at(np.float64) if exact else PROBLEMS[seed], name)
    return vgf.Network.from_mlp(field) if name in NETWORKS and not exact else field


def fields_of(function) -> list[str]:
    return list(inspect.signature(function).parameters)[1:]


@functools.cache
def wanted(function, mapped: tuple[str, ...]) -> np.ndarray:
    names = fields_of(function)
    return np.stack([function(reference, *(given(n, seed * (n in mapped), True) for n in names)) for seed in range(SEEDS)])


def check_agreement(got, exact, case=()) -> None:
    """But for the few whose gradient changes its sign within round-off."""
    off = np.abs(got - exact) > 1e-4
    assert off.mean() < 0.01, (case, off.mean())


def check(function, mapped: tuple[str, ...], mesh) -> None:
    arguments, axes = [], []
    for name in fields_of(function):
        seeds = [given(name, seed, False) for seed in range(SEEDS if name in mapped else 1)]
        argument = jax.tree.map(lambda *a: jnp.stack(a), *seeds) if name in mapped else seeds[0]
        cut = P(*["seeds"] * (name in mapped), *["states"] * (name in OF_STATES))
        arguments.append(jax.device_put(argument, NamedSharding(mesh, cut)))
        axes.append(0 if name in mapped else None)
    run = jax.jit(jax.vmap(lambda *fields: function(vgf, *fields), axes))
    compiled = run.lower(*arguments).compile()
    got = compiled(*arguments)
    case = function.__name__, mapped, mesh.shape
    check_agreement(got, wanted(function, mapped), case)
    assert got.sharding.is_equivalent_to(NamedSharding(mesh, P("seeds", "states")), got.ndim), (case, got.sharding)
    moves = re.findall("all-gather|all-to-all|collective-permute|all-reduce", compiled.as_text())
    assert not moves, (case, moves)


def automatic():
    for shape in MESHES:
        mesh = Mesh(np.array(jax.devices()).reshape(shape), ("seeds", "states"))
        for case in CASES:
            check(*case, mesh)


def explicit():
    if not hasattr(jax, "set_mesh"):
        return
    for shape in MESHES:
        mesh = jax.make_mesh(shape, ("seeds", "states"), axis_types=(jax.sharding.AxisType.Explicit,) * 2)
        with jax.set_mesh(mesh):
            for case in CASES:
                check(*case, mesh)


def uneven():
    """What XLA fills the last part up with is a state like any other, but no network and no step count: these are not cut."""
    mesh, few, p = Mesh(np.array(jax.devices()), ("all",)), SEEDS - 1, PROBLEMS[0]
    critics = [vgf.pack(given("critic", seed, False)) for seed in range(few)]

    def cut(tree):
        return jax.tree.map(lambda a: jax.lax.with_sharding_constraint(a, NamedSharding(mesh, P("all"))), tree)

    @jax.jit
    def run(critics, counts, xs):
        return (
            jax.vmap(lambda critic: vgf.flow(critic, p.obs, p.particles, CONFIG))(cut(critics)),
            jax.vmap(lambda n: vgf.sample(p.policy, p.obs, p.noise, n))(cut(counts)),
            jax.vmap(lambda x: vgf.flow(p.critic, p.obs, x, CONFIG))(cut(xs)),
        )

    xs = np.stack([each.particles for each in PROBLEMS[:few]])
    moved, drawn, of_each = run(jax.tree.map(lambda *a: jnp.stack(a), *critics), STEPS[1:], xs)
    e = p.at(np.float64)
    for i in range(few):
        critic = given("critic", i, True)
        check_agreement(moved[i], reference.flow(critic, e.obs, e.particles, CONFIG))
        check_agreement(drawn[i], reference.sample(e.policy, e.obs, e.noise, i + 1))
        check_agreement(of_each[i], reference.flow(e.critic, e.obs, np.float64(xs[i]), CONFIG))


if __name__ == "__main__":
    assert len(jax.devices()) == SEEDS
    globals()[sys.argv[1]]()
    print("done")
