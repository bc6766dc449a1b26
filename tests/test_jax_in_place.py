"""Few particles: what `network` returned is read where it lies instead of packed, and every bit of the results is the same."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from problems import change_layers, layers_of, make_mlp, make_problem

import vgf_kernels.jax as vgf
import vgf_kernels.numpy
from vgf_kernels import FlowConfig

CONFIG = FlowConfig(num_steps=2, learning_rate=0.1, alpha=0.2, aggregate="min")
WIDTHS = [(16,), (48, 32), (32, 33, 16), (20, 17)]  # whole panels of 16 columns in all, some and no layers
FEW, MOST, MANY = {"B": 4, "N": 10}, {"B": 8, "N": 16}, {"B": 43, "N": 3}  # 40 particles, 128 and 129
NAMES = ("critic", "target_critic", "policy")


def networks_of(p):
    return [jax.tree.map(jnp.asarray, vgf.Network.from_mlp(getattr(p, name))) for name in NAMES]


def calls(p, critic, target_critic, policy):
    """Every function's arguments, by name."""
    steps, states = (3, CONFIG), (p.obs, p.particles)
    return {
        "value": (critic, *states),
        "value_and_grad": (critic, *states, "min"),
        "direction": (critic, *states, CONFIG),
        "flow": (critic, *states, CONFIG, True),
        "sample": (policy, p.obs, p.noise, 3),
        "act": (critic, policy, p.obs, p.noise, *steps),
        "td_target": (critic, target_critic, policy, p.obs, p.noise, p.reward, p.mask, 0.99, *steps),
    }


def function(name: str):
    """Of arrays and networks; everything else is static, as it is in an agent."""
    static = {
        "value_and_grad": 3,
        "direction": 3,
        "flow": (3, 4),
        "sample": 3,
        "act": (4, 5),
        "td_target": (7, 8, 9),
    }
    return jax.jit(getattr(vgf, name), static_argnums=static.get(name, ()))


def in_place(name: str, arguments) -> int:
    """How many networks the call reads where they lie."""
    return function(name).lower(*arguments).as_text().split("vgf_" + name)[-1].count("in_place = true")


@pytest.mark.parametrize("sizes", [FEW, MOST])
@pytest.mark.parametrize("hidden", WIDTHS)
@pytest.mark.parametrize(
    ("norm", "activation", "E"), [("pre", "relu", 3), ("none", "relu", 1), ("post", "gelu", 2)]
)
def test_the_same_bits_as_packed(sizes, hidden, norm, activation, E):
    p = make_problem(**sizes, E=E, hidden=hidden, norm=norm, activation=activation)
    expected = calls(p, *(getattr(p, name) for name in NAMES))
    for name, arguments in calls(p, *networks_of(p)).items():
        got, wanted = function(name)(*arguments), getattr(vgf_kernels.numpy, name)(*expected[name])
        jax.tree.map(np.testing.assert_array_equal, got, wanted)


def test_who_is_read_in_place():
    few, many = (make_problem(**sizes, hidden=(32, 32)) for sizes in (MOST, MANY))
    found = {name: in_place(name, arguments) for name, arguments in calls(few, *networks_of(few)).items()}
    assert found == dict.fromkeys(found, 1) | {"act": 2, "td_target": 3}
    assert not any(in_place(*call) for call in calls(many, *networks_of(many)).items())


@pytest.mark.parametrize("packed", [(0,), (1,), (2,), (0, 2)])
def test_beside_packed_networks(packed):
    p = make_problem(**FEW, hidden=(32, 32))
    networks = networks_of(p)
    wanted = function("td_target")(*calls(p, *networks)["td_target"])
    for i in packed:
        networks[i] = vgf.pack(networks[i], role="policy" if NAMES[i] == "policy" else "critic")
    arguments = calls(p, *networks)["td_target"]
    assert in_place("td_target", arguments) == 3 - len(packed)
    np.testing.assert_array_equal(function("td_target")(*arguments), wanted)


def test_gradients_of_every_critic():
    p = make_problem(**FEW, E=3, hidden=(32, 32))
    critic, *_ = networks_of(p)
    weights = np.arange(1, 4, dtype=np.float32)[:, None, None]

    def total(critic, x):
        return (weights * vgf.value(critic, p.obs, x)).sum()

    gradient = jax.jit(jax.grad(total, argnums=1))
    np.testing.assert_array_equal(gradient(critic, p.particles), gradient(vgf.pack(critic), p.particles))


def test_weights_that_the_same_computation_makes():
    """Their memory must live until the call has read it."""
    p = make_problem(**FEW, hidden=(32, 32))
    critic, _, policy = networks_of(p)

    @jax.jit
    def step(critic, policy):
        for _ in range(3):
            critic, policy = jax.tree.map(lambda a: a * np.float32(0.9), (critic, policy))
            action = vgf.act(critic, policy, p.obs, p.noise, 3, CONFIG)
        return action, critic, policy

    action, critic, policy = step(critic, policy)
    np.testing.assert_array_equal(
        action, vgf.act(vgf.pack(critic), vgf.pack(policy, role="policy"), p.obs, p.noise, 3, CONFIG)
    )


def spoil(layers, unit, bad):
    """Turn a unit off in all rows, and make the weights behind it `bad`."""
    first, second, *others = layers
    b = np.where(np.arange(32) == unit, np.float32(-100), first["b"])
    W = np.where(np.arange(32)[:, None] == unit, np.float32(bad), second["W"])
    return [{**first, "b": b}, {**second, "W": W}, *others]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("bad", [np.inf, np.nan])
@pytest.mark.parametrize("unit", [0, 3, 31])
@pytest.mark.parametrize("role", ["critic", "policy"])
def test_a_weight_that_is_not_finite_is_not_left_out(role, unit, bad):
    """Behind a unit that is off in all rows: 0 times it is NaN, so of this member no unit may be skipped."""
    p = make_problem(**FEW, E=1, hidden=(32, 32), norm="none")
    mlp = change_layers(getattr(p, role), lambda layers: spoil(layers, unit, bad))
    call, arguments = ("value", (p.particles,)) if role == "critic" else ("sample", (p.noise, 1))
    assert np.isnan(getattr(vgf_kernels.numpy, call)(mlp, p.obs, *arguments, backend="reference")).all()
    assert np.isnan(getattr(vgf, call)(vgf.Network.from_mlp(mlp), p.obs, *arguments)).all()


def test_members_apart_are_finite_apart():
    p = make_problem(**FEW, E=2, hidden=(32, 32), norm="none")
    first, second = layers_of(p.critic)
    network = vgf.Network.from_mlp(vgf.MLP.from_layers([first, spoil(second, 3, np.nan)]))
    q, _ = jax.vjp(lambda x: vgf.value(network, p.obs, x), p.particles)  # whose gradient is of each member
    assert np.isfinite(q[0]).all() and np.isnan(q[1]).all()


@pytest.mark.parametrize("sizes", [FEW, MANY])
def test_a_score(sizes):
    p = make_problem(**sizes)
    widths = (p.obs.shape[1] + p.noise.shape[2], 32, 32, p.noise.shape[2])
    score = vgf.Network.from_mlp(make_mlp(np.random.default_rng(1), widths, 1, "relu", "none"))

    @jax.jit
    def run(score):
        return vgf.transport(score, p.particles, CONFIG, obs=p.obs, max_norm=0.5)

    np.testing.assert_array_equal(run(score), run(vgf.pack(score, role="score")))
    assert ("in_place = true" in run.lower(score).as_text()) == (sizes is FEW)


@pytest.mark.parametrize("name", ["flow", "act", "transport"])
def test_an_export_for_any_number_of_states(name):
    """How many there will be is not known then, so weights are packed."""
    p = make_problem(**FEW, hidden=(32, 32))
    critic, _, policy = networks_of(p)
    widths = (p.obs.shape[1] + p.noise.shape[2], 32, 32, p.noise.shape[2])
    score = vgf.Network.from_mlp(make_mlp(np.random.default_rng(1), widths, 1, "relu", "none"))
    run = {
        "flow": lambda obs, x: vgf.flow(critic, obs, x, CONFIG),
        "act": lambda obs, x: vgf.act(critic, policy, obs, x, 3, CONFIG),
        "transport": lambda obs, x: vgf.transport(score, x, CONFIG, obs=obs),
    }[name]
    (states,) = export.symbolic_shape("states")
    shapes = [jax.ShapeDtypeStruct((states, *a.shape[1:]), a.dtype) for a in (p.obs, p.particles)]
    ours = ("pack", "flow", "act", "sample", "update")
    kept = [export.DisabledSafetyCheck.custom_call(f"vgf_{handler}") for handler in ours]
    exported = export.export(jax.jit(run), disabled_checks=kept)(*shapes)
    np.testing.assert_array_equal(exported.call(p.obs, p.particles), run(p.obs, p.particles))
