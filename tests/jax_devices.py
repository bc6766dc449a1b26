"""Run by test_jax_sharding.py in a process with four CPU devices: states spread over them, results as on one."""

from __future__ import annotations

import functools
import re
import sys

import jax
import jax.export
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from problems import make_problem

import vgf_kernels.jax as vgf
import vgf_kernels.numpy as plain
from vgf_kernels import FlowConfig

try:
    from jax import shard_map
except ImportError:  # JAX before 0.6, which also checks replication by rules that only its own operations have
    from jax.experimental.shard_map import shard_map

    shard_map = functools.partial(shard_map, check_rep=False)

CONFIG = FlowConfig(num_steps=2, learning_rate=0.1, alpha=0.3)
DEVICES = 4
PROBLEM = make_problem(B=8, N=10, seed=3)
MESH = Mesh(np.array(jax.devices()), ("states",))
ALONG_STATES, EVERYWHERE = NamedSharding(MESH, P("states")), NamedSharding(MESH, P())
CRITIC, TARGET, POLICY = (
    jax.device_put(vgf.Network.from_mlp(m), EVERYWHERE)
    for m in (PROBLEM.critic, PROBLEM.target_critic, PROBLEM.policy)
)


def spread(array):
    return jax.device_put(array, ALONG_STATES)


def td_target(critic, target, policy, obs, noise, reward, mask):
    return vgf.td_target(critic, target, policy, obs, noise, reward, mask, 0.99, 3, CONFIG)


def arguments():
    p = PROBLEM
    return CRITIC, TARGET, POLICY, *map(spread, (p.obs, p.noise, p.reward, p.mask))


def wanted_target():
    p = PROBLEM
    networks = (p.critic, p.target_critic, p.policy)
    return plain.td_target(*networks, p.obs, p.noise, p.reward, p.mask, 0.99, 3, CONFIG)


def sharded_arrays():
    """jit alone: each device computes its own states, and nothing is gathered."""
    compiled = jax.jit(td_target).lower(*arguments()).compile()
    got = compiled(*arguments())
    np.testing.assert_array_equal(got, wanted_target())
    assert got.sharding.is_equivalent_to(ALONG_STATES, 1), got.sharding
    text = compiled.as_text()
    assert not re.search("all-gather|all-to-all|collective-permute", text), text
    b, n, a = PROBLEM.noise.shape
    assert f"f32[{b // DEVICES},{n},{a}]" in text, text
    assert f"f32[{b},{n},{a}]" not in text, text


def states_on_another_axis():
    """Results whose axis of states is not the first."""
    p = PROBLEM
    run = jax.jit(lambda critic, obs, x: (vgf.flow(critic, obs, x, CONFIG, True), vgf.value(critic, obs, x)))
    path, q = run(CRITIC, spread(p.obs), spread(p.particles))
    np.testing.assert_array_equal(path, plain.flow(p.critic, p.obs, p.particles, CONFIG, True))
    np.testing.assert_array_equal(q, plain.value(p.critic, p.obs, p.particles))
    for array in (path, q):
        assert array.sharding.is_equivalent_to(NamedSharding(MESH, P(None, "states")), array.ndim)


def gradient():
    p = PROBLEM
    run = jax.jit(jax.grad(lambda x, critic, obs: vgf.value(critic, obs, x).sum()))
    got = run(spread(p.particles), CRITIC, spread(p.obs))
    assert got.sharding.is_equivalent_to(ALONG_STATES, 3)
    np.testing.assert_array_equal(got, jax.grad(lambda x: vgf.value(p.critic, p.obs, x).sum())(p.particles))


def under_shard_map():
    specs = (P(), P(), P(), *[P("states")] * 4)
    mapped = jax.jit(shard_map(td_target, mesh=MESH, in_specs=specs, out_specs=P("states")))
    np.testing.assert_array_equal(mapped(*arguments()), wanted_target())


def transport_under_shard_map():
    """Whose loop needs results of the types of what it began with."""
    p = PROBLEM
    for backend in ("cpu", "reference"):
        for trajectory, out in ((False, P("states")), (True, P(None, "states"))):
            move = functools.partial(
                vgf.transport, jax.numpy.sin, config=CONFIG, trajectory=trajectory, backend=backend
            )
            mapped = jax.jit(shard_map(lambda x, move=move: move(particles=x), mesh=MESH, in_specs=P("states"), out_specs=out))
            np.testing.assert_array_equal(mapped(spread(p.particles)), jax.jit(move)(particles=p.particles))


def gradient_under_shard_map():
    p = PROBLEM

    def loss(critic, obs, x):
        return jax.lax.psum(vgf.value(critic, obs, x).sum(), "states")

    mapped = shard_map(loss, mesh=MESH, in_specs=(P(), P("states"), P("states")), out_specs=P())
    got = jax.jit(jax.grad(mapped, argnums=2))(CRITIC, spread(p.obs), spread(p.particles))
    np.testing.assert_array_equal(got, jax.grad(lambda x: vgf.value(p.critic, p.obs, x).sum())(p.particles))


def gradient_of_what_all_devices_share():
    """The same actions for other states, or other critics, on every device: as in plain JAX, their gradient is the sum."""
    p, shared = PROBLEM, PROBLEM.particles[: PROBLEM.particles.shape[0] // DEVICES]

    def loss(critic, obs, x):
        return jax.lax.psum(vgf.value(critic, obs, x).sum(), "states")

    def alone(x):
        return sum(vgf.value(p.critic, obs, x).sum() for obs in np.split(p.obs, DEVICES))

    mapped = shard_map(loss, mesh=MESH, in_specs=(P(), P("states"), P()), out_specs=P())
    got = jax.jit(jax.grad(mapped, argnums=2))(CRITIC, spread(p.obs), shared)
    np.testing.assert_allclose(got, jax.grad(alone)(shared), rtol=1e-5, atol=1e-6)

    critics = [jax.tree.map(lambda a, k=k: a * np.float32(k), CRITIC) for k in (1, 1.1, 0.9, 1.2)]

    def of_a_seed(critic, obs, x):
        critic = jax.tree.map(lambda a: a[0], critic)
        return jax.grad(lambda x: vgf.value(critic, obs, x).sum())(x)[None]

    seeds = shard_map(of_a_seed, mesh=MESH, in_specs=(P("states"), P(), P()), out_specs=P("states"))
    stacked = jax.tree.map(lambda *a: np.stack(a), *critics)
    wanted = sum(jax.grad(lambda x, c=c: vgf.value(c, p.obs, x).sum())(p.particles) for c in critics)
    got = jax.jit(seeds)(stacked, p.obs, p.particles)
    np.testing.assert_allclose(got, np.stack([wanted] * DEVICES), rtol=1e-5, atol=1e-5)


def transport_of_what_all_devices_share():
    p, shared = PROBLEM, PROBLEM.particles[: PROBLEM.particles.shape[0] // DEVICES]

    def move(obs, x, trajectory):
        return vgf.transport(lambda y: vgf.value_and_grad(CRITIC, obs, y)[1], x, CONFIG, trajectory)

    for trajectory, out in ((False, P("states")), (True, P(None, "states"))):
        one = functools.partial(move, trajectory=trajectory)
        got = jax.jit(shard_map(one, mesh=MESH, in_specs=(P("states"), P()), out_specs=out))(spread(p.obs), shared)
        wanted = np.concatenate([one(obs, shared) for obs in np.split(p.obs, DEVICES)], axis=-3)
        np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-6)


def vmap_and_shard_map():
    """Either inside the other, over particles, networks and step counts."""
    p = PROBLEM
    both = np.stack([p.particles, -p.particles])
    wanted = np.stack([plain.flow(p.critic, p.obs, x, CONFIG) for x in both])
    specs = {"mesh": MESH, "in_specs": (P(), P("states"), P("states"), P()), "out_specs": P("states")}
    pairs = {**specs, "in_specs": (P(), P("states"), P(None, "states"), P()), "out_specs": P(None, "states")}

    def flow(critic, obs, x, n):
        return vgf.flow(critic, obs, x, CONFIG, num_steps=n)

    over_x = jax.vmap(flow, in_axes=(None, None, 0, None))
    over_steps = jax.vmap(flow, in_axes=(None, None, None, 0))
    over_networks = jax.vmap(flow, in_axes=(0, None, None, None))
    steps, critics = np.array([0, CONFIG.num_steps]), jax.tree.map(lambda a: np.stack([a, a]), CRITIC)
    outside = jax.vmap(shard_map(flow, **specs), in_axes=(None, None, 0, None))
    for function, arguments, expected in (
        (shard_map(over_x, **pairs), (CRITIC, p.obs, both, 2), wanted),
        (outside, (CRITIC, p.obs, both, 2), wanted),
        (shard_map(over_steps, **{**specs, "out_specs": P(None, "states")}), (CRITIC, p.obs, p.particles, steps), [p.particles, wanted[0]]),
        (shard_map(over_networks, **{**specs, "out_specs": P(None, "states")}), (critics, p.obs, p.particles, 2), [wanted[0]] * 2),
    ):
        np.testing.assert_array_equal(jax.jit(function)(*arguments), np.stack(expected))


def exported_shard_map():
    """Unlike a jit, which asks Python how to cut a call."""
    p, along = PROBLEM, P("states")
    specs = {"mesh": MESH, "in_specs": (along, along), "out_specs": along}
    run = shard_map(lambda obs, x: vgf.flow(p.critic, obs, x, CONFIG), **specs)
    kept = [jax.export.DisabledSafetyCheck.custom_call(f"vgf_{name}") for name in ("pack", "flow")]
    exported = jax.export.export(jax.jit(run), disabled_checks=kept)(spread(p.obs), spread(p.particles))
    got = exported.call(spread(p.obs), spread(p.particles))
    assert got.sharding.is_equivalent_to(ALONG_STATES, 3), got.sharding
    np.testing.assert_array_equal(got, plain.flow(p.critic, p.obs, p.particles, CONFIG))


def explicit_mesh():
    """Where types say how arrays are cut, those of results and gradients do, too."""
    if not hasattr(jax, "set_mesh"):
        return
    p = PROBLEM
    mesh = jax.make_mesh((DEVICES,), ("states",), axis_types=(jax.sharding.AxisType.Explicit,))
    cut, everywhere = NamedSharding(mesh, P("states")), NamedSharding(mesh, P())
    critic, target, policy = (jax.device_put(network, everywhere) for network in (CRITIC, TARGET, POLICY))
    obs, x, noise, reward, mask = (
        jax.device_put(a, cut) for a in (p.obs, p.particles, p.noise, p.reward, p.mask)
    )

    def gradient(critic, obs, x):
        return jax.grad(lambda actions: vgf.value(critic, obs, actions).mean(axis=0).sum())(x)

    with jax.set_mesh(mesh):
        for function, arrays, wanted in (
            (gradient, (critic, obs, x), plain.value_and_grad(p.critic, p.obs, p.particles)[1]),
            (td_target, (critic, target, policy, obs, noise, reward, mask), wanted_target()),
        ):
            compiled = jax.jit(function).lower(*arrays).compile()
            got = compiled(*arrays)
            np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-7)
            assert jax.typeof(got).sharding.spec[0] == "states", jax.typeof(got)
            assert not re.search("all-gather|all-to-all|collective-permute", compiled.as_text())


if __name__ == "__main__":
    assert len(jax.devices()) == DEVICES
    globals()[sys.argv[1]]()
    print("done")
