"""A JAX network is a pytree, which anyone may map: what no longer fits is refused before an engine reads it."""

from __future__ import annotations

from dataclasses import replace

import jax
import numpy as np
import pytest
from problems import make_problem

import vgf_kernels.jax as vgf
from vgf_kernels import reference

PROBLEM = make_problem(hidden=(16, 16), norm="pre")
NETWORK = vgf.network(jax.tree.map(jax.numpy.asarray, PROBLEM.critic.to_flax()))


def narrower(network):
    return jax.tree.map(lambda a: a[..., :3] if a.ndim == 3 and a.shape[1:] == (16, 16) else a, network)


def without_members(network):
    return jax.tree.map(lambda a: a[:0], network)


@pytest.mark.parametrize("jitted", [False, True])
@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (narrower, "expected b .3., got shape .16,."),
        (without_members, "expected arrays with one leading axis of E >= 1 members, got"),
        (lambda n: jax.tree.map(lambda a: a[0], n), "expected arrays with one leading axis of E >= 1 members, got"),
        (lambda n: replace(n, norm="none"), "scale was given but norm is 'none'"),
        (lambda n: replace(n, norm="batch"), "norm: expected one of"),
        (lambda n: replace(n, activation="relu6"), "activation: expected one of"),
        (lambda n: replace(n, layers=n.layers[:1]), "expected at least one hidden layer and an output layer, got 1"),
    ],
)
def test_a_network_that_was_changed(change, message, backend, jitted):
    def value(network, obs, x):
        return vgf.value(network, obs, x, backend=backend)

    call = jax.jit(value) if jitted else value
    changed = change(NETWORK)
    with pytest.raises(ValueError, match=message):
        call(changed, PROBLEM.obs, PROBLEM.particles)


def test_all_members_have_the_same_number():
    first, *others = NETWORK.layers
    twice = replace(NETWORK, layers=(first._replace(W=np.concatenate([first.W, first.W])), *others))
    with pytest.raises(ValueError, match="one leading axis of E >= 1 members"):
        vgf.value(twice, PROBLEM.obs, PROBLEM.particles)


def test_what_does_not_fit_is_not_packed():
    first, *others = NETWORK.layers
    changed = replace(NETWORK, layers=(first._replace(b=first.b[:, :3]), *others))
    with pytest.raises(ValueError, match=r"layer 0: expected b \[16\], got shape \(3,\)"):
        vgf.pack(changed)


@pytest.mark.parametrize("setting", [{"activation": ["relu"]}, {"norm": ["pre"]}, {"norm_eps": "1e-6"}])
def test_settings_of_no_sense(setting):
    (name,) = setting
    with pytest.raises(ValueError, match=f"{name}: expected"):
        vgf.network(PROBLEM.critic.to_flax(), **setting)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("eps", [1, np.float32(0.25)])
def test_the_epsilon_is_the_one_given(backend, eps):
    """Whatever kind of number it is."""
    mlp = vgf.MLP.from_flax(PROBLEM.critic.to_flax(), norm_eps=float(eps))
    wanted = reference.value(mlp, PROBLEM.obs, PROBLEM.particles)
    got = vgf.value(vgf.network(PROBLEM.critic.to_flax(), norm_eps=eps), PROBLEM.obs, PROBLEM.particles, backend=backend)
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


def test_packed_weights_that_another_instruction_set_or_version_packed():
    """Layouts of bfloat16 may differ without a difference in size; so may those of versions."""
    p = make_problem(hidden=(32, 32, 32), norm="pre")
    packed = vgf.pack(vgf.Network.from_mlp(p.critic), precision="bf16")
    stamps = np.flatnonzero(np.asarray(packed.weights).view(np.float32) // 10 == 100)
    for stamp in stamps:
        other = np.array(packed.weights).view(np.float32)
        other[stamp] += 1
        with pytest.raises(Exception, match="packed weights: expected those that this version of vgf-kernels packs"):
            vgf.value(replace(packed, weights=other.view(np.uint8)), p.obs, p.particles)
    assert len(stamps) == p.critic.ensemble
    with pytest.raises(Exception, match="packed weights: expected those"):
        vgf.value(jax.tree.map(jax.numpy.zeros_like, packed), p.obs, p.particles)


def test_one_packed_network_does_not_decide_the_precision_of_another():
    p = PROBLEM
    critic, policy = vgf.Network.from_mlp(p.critic), vgf.Network.from_mlp(p.policy)
    in_bf16 = vgf.pack(policy, role="policy", precision="bf16")
    arguments = (p.obs, p.noise, 2, vgf.FlowConfig())
    for other in (critic, vgf.pack(critic)):
        with pytest.raises(ValueError, match="expected networks packed in the same one, got {'critic': 'fp32', 'policy': 'bf16'}"):
            vgf.act(other, in_bf16, *arguments)
    got = vgf.act(critic, in_bf16, *arguments, precision="bf16")
    np.testing.assert_array_equal(got, vgf.act(critic, policy, *arguments, precision="bf16"))


def test_weights_of_a_snapshot_cannot_be_written_through_its_network():
    network = vgf.Network.from_mlp(PROBLEM.critic)
    with pytest.raises(ValueError, match="read-only"):
        network.layers[0].W[...] = 0
