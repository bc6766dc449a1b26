"""What the JAX frontend says of what is no network, no noise and no weights: while it is traced, and with a remedy."""

from __future__ import annotations

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import make_mlp
from test_jax_tracing import CONFIG, PARAMS, PROBLEM, flow, network

import vgf_kernels.jax as vgf
from vgf_kernels import FlowConfig, reference

STATE = types.SimpleNamespace(params=PARAMS["critic"])
STACK = r"stack the members along a leading axis: jax.tree.map\(lambda \*arrays: jnp.stack\(arrays\), \*members\)"
KEYS = [jax.random.key(0), jax.random.PRNGKey(0)]


def cast(tree, dtype):
    return jax.tree.map(lambda a: a.astype(dtype), tree)


# ---- weights


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float8_e4m3fn, jnp.int32, jnp.complex64])
def test_weights_that_no_engine_computes(dtype, backend):
    critic = network(cast(PARAMS["critic"], dtype))
    with pytest.raises(TypeError, match="weights: layer 0, W: .* computes .*float32.*; cast the weights to float32(\n|$)"):
        jax.eval_shape(lambda x: flow(critic, x, backend=backend), PROBLEM.particles)


def test_weights_that_the_reference_computes():
    critic = network(cast(PARAMS["critic"], jnp.float16))
    with pytest.raises(TypeError, match='cast the weights to float32 or pass backend="reference"$'):
        flow(critic, PROBLEM.particles)
    got = vgf.value(critic, PROBLEM.obs, PROBLEM.particles, backend="reference")
    rounded = jax.tree.map(lambda a: np.asarray(a, np.float16).astype(np.float64), PARAMS["critic"])
    exact = vgf.MLP.from_flax(rounded, norm_eps=1e-5)
    wanted = reference.value(exact, PROBLEM.at(np.float64).obs, PROBLEM.at(np.float64).particles)
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("change", ["averaged", "stacked"])
@pytest.mark.parametrize("role", ["critic", "score"])
def test_packed_weights_are_bytes(role, change):
    x, obs = PROBLEM.particles, PROBLEM.obs
    A = x.shape[2]
    score = vgf.Network.from_mlp(make_mlp(np.random.default_rng(1), (obs.shape[1] + A, 8, A), 1, "relu", "none"))
    packed = vgf.pack(network(PARAMS["critic"]) if role == "critic" else score, role=role)
    changed = jax.tree.map(lambda a: 0.5 * a + 0.5 * a if change == "averaged" else jnp.stack([a, a]), packed)
    got = r"float32 of shape \[\d+\]" if change == "averaged" else r"uint8 of shape \[2, \d+\]"

    def move(weights):
        return flow(weights, x) if role == "critic" else vgf.transport(weights, x, CONFIG, obs=obs)

    with pytest.raises(TypeError, match=f"packed weights: .*uint8 of rank 1, got {got}; .* the parameters, then pack"):
        jax.eval_shape(move, changed)
    if change == "stacked":  # which vmap takes apart
        np.testing.assert_array_equal(jax.vmap(move)(changed), np.stack([move(packed)] * 2))


# ---- networks


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([PARAMS["critic"]] * 2, rf"got list; {STACK}, and make one with network\(params\)"),
        (STATE, r"got SimpleNamespace; make one with network\(state.params\)"),
        (PARAMS["critic"], r"got dict; make one with network\(params\)"),
    ],
)
def test_what_is_no_network_yet(given, message):
    x, obs = PROBLEM.particles, PROBLEM.obs
    with pytest.raises(TypeError, match=f"critic: expected a Network, {message}"):
        flow(given, x)
    with pytest.raises(TypeError, match=f"network: expected a Network, {message}"):
        vgf.pack(given)
    for rest in ({}, {"obs": obs}):
        with pytest.raises(TypeError, match=f"score_fn: expected a Network, {message}"):
            vgf.transport(given, x, CONFIG, **rest)


def test_what_was_never_one():
    with pytest.raises(TypeError, match=r"critic: expected an MLP, got NoneType; make one with network\(params\)"):
        flow(None, PROBLEM.particles)
    with pytest.raises(TypeError, match="score_fn: expected a function of the particles, got NoneType"):
        vgf.transport(None, PROBLEM.particles, CONFIG)


class Callable(types.SimpleNamespace):
    """A train state as the official agent's, which evaluates its network when it is called."""

    def __call__(self, x):
        return -x


def test_a_train_state_that_can_be_called():
    """With obs it is meant as a network, without as a function."""
    state, x = Callable(params=PARAMS["policy"]), PROBLEM.particles
    with pytest.raises(TypeError, match=r"score_fn: expected a Network, got Callable; make one with network\(state.params\)"):
        vgf.transport(state, x, CONFIG, obs=PROBLEM.obs)
    wanted = reference.transport(lambda x: -x, np.float64(x), CONFIG)
    np.testing.assert_allclose(vgf.transport(state, x, CONFIG), wanted, atol=1e-5)


def test_members_stacked_as_told():
    members = [jax.tree.map(lambda a, e=e: a[e], PARAMS["critic"]) for e in range(PROBLEM.critic.ensemble)]
    with pytest.raises(ValueError, match=rf"parameters: expected a tree with Dense_0, .*, got list; {STACK}"):
        vgf.network(members)
    stacked = network(jax.tree.map(lambda *arrays: jnp.stack(arrays), *members))
    np.testing.assert_array_equal(flow(stacked, PROBLEM.particles), flow(network(PARAMS["critic"]), PROBLEM.particles))


def test_trees_with_something_around_them():
    meta = pytest.importorskip("flax.linen").meta
    boxed = jax.tree.map(lambda a: meta.Partitioned(a, names=(None,) * a.ndim), PARAMS["critic"])
    for read in (vgf.network, vgf.MLP.from_flax):
        with pytest.raises(ValueError, match=r"Dense_0 kernel in a Partitioned; pass nn.meta.unbox\(params\)"):
            read(boxed)
        with pytest.raises(ValueError, match="Dense_0, Dense_1, ..., got SimpleNamespace; pass its params"):
            read(STATE)
        read(meta.unbox(boxed))


@pytest.mark.parametrize(("name", "remedy"), [("kernel", "pass all parameters"), ("bias", "put zeros there if it has none")])
def test_a_leaf_that_is_none(name, remedy):
    layers = PARAMS["policy"]["mlp"]
    with pytest.raises(ValueError, match=f"parameters: Dense_1 lacks '{name}'; {remedy}"):
        vgf.network({**layers, "Dense_1": {**layers["Dense_1"], name: None}})


# ---- arrays


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_the_array_that_is_not_float32_is_named(backend):
    wide = PROBLEM.obs.astype(np.float64)
    with pytest.raises(TypeError, match="obs: expected the dtype of particles, float32, got float64; cast one"):
        vgf.flow(network(PARAMS["critic"]), wide, PROBLEM.particles, CONFIG, backend=backend)


@pytest.mark.parametrize("key", KEYS, ids=["typed", "raw"])
def test_a_key_is_no_noise(key):
    p, critic, policy = PROBLEM, network(PARAMS["critic"]), network(PARAMS["policy"])
    calls = {
        "noise": [
            lambda key: vgf.sample(policy, p.obs, key, 2),
            lambda key: vgf.act(critic, policy, p.obs, key, 2, CONFIG),
            lambda key: vgf.td_target(critic, critic, policy, p.obs, key, p.reward, p.mask, 0.9, 2, CONFIG),
            lambda key: vgf.select(p.select_noise, "softmax", noise=key),
        ],
        "select_noise": [lambda key: vgf.act(critic, policy, p.obs, p.noise, 2, CONFIG, "softmax", select_noise=key)],
    }
    for name, functions in calls.items():
        for function in functions:
            with pytest.raises(TypeError, match=rf"^{name}: expected random numbers, got a key; .*draw_noise\(key, B, N, A\)"):
                jax.eval_shape(function, key)


# ---- a temperature that is traced


@pytest.mark.parametrize("aggregate", ["mean", "min"])
def test_a_traced_alpha_divides_the_last_layer(aggregate):
    """What the README says: as exact as the same alpha among the settings."""

    @jax.jit
    def move(alpha):
        *hidden, last = (critic := network(PARAMS["critic"])).layers
        layers = (*hidden, jax.tree.map(lambda array: array / alpha, last))
        tempered = vgf.Network(layers, critic.activation, critic.norm, critic.norm_eps)
        config = FlowConfig(alpha=1.0, aggregate=aggregate)
        return vgf.direction(tempered, PROBLEM.obs, PROBLEM.particles, config)

    exact = PROBLEM.at(np.float64)
    for alpha in (0.05, 0.7, 3.0):
        wanted = reference.direction(exact.critic, exact.obs, exact.particles, FlowConfig(alpha=alpha, aggregate=aggregate))
        np.testing.assert_allclose(move(alpha), wanted, atol=1e-5 * np.abs(wanted).max())
    assert move._cache_size() == 1
