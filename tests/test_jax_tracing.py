"""The JAX frontend inside jit, loops and grad: the same numbers as outside, and nothing compiled twice."""

from __future__ import annotations

import types
import warnings
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from accuracy import relative_error
from problems import make_problem

import vgf_kernels.jax as vgf
import vgf_kernels.numpy
from vgf_kernels import FlowConfig, reference

PROBLEM = make_problem(B=4, N=10, E=3, seed=5)
CONFIG = FlowConfig(num_steps=3, learning_rate=0.1, alpha=0.2)
BACKENDS = ("cpu", "reference")


def params_of(mlp):
    """The flax tree of an MLP's weights, as JAX arrays."""
    return jax.tree.map(jnp.asarray, mlp.to_flax())


def network(params):
    return vgf.network(params, activation="relu", norm_eps=1e-5)


PARAMS = {name: params_of(getattr(PROBLEM, name)) for name in ("critic", "target_critic", "policy")}


def flow(critic, x, **keywords):
    return vgf.flow(critic, PROBLEM.obs, x, CONFIG, **keywords)


def expected_flow(critic=PROBLEM.critic, x=PROBLEM.particles, config=CONFIG):
    return vgf_kernels.numpy.flow(critic, PROBLEM.obs, x, config, backend="cpu")


# ---- parameters


def test_a_network_has_the_sizes_of_its_tree():
    critic = network(PARAMS["critic"])
    assert critic.widths == PROBLEM.critic.widths
    assert critic.ensemble == 3
    assert critic.norm == "pre"
    assert network(PARAMS["policy"]).ensemble == 1
    assert network(PARAMS["policy"]).norm == "none"


def test_traced_parameters_that_change_compile_once():
    @jax.jit
    def step(params, x):
        step.traced += 1
        return flow(network(params), x)

    step.traced = 0
    for scale in (1.0, 1.1, 0.7):
        params = jax.tree.map(lambda a, s=scale: a * np.float32(s), PARAMS["critic"])
        wanted = expected_flow(vgf.MLP.from_flax(params, norm_eps=1e-5))
        np.testing.assert_array_equal(step(params, PROBLEM.particles), wanted)
    assert step.traced == 1


@pytest.mark.parametrize("eps", [-1e-6, float("nan"), "1e-6"])
def test_an_epsilon_that_is_none(eps):
    with pytest.raises(ValueError, match="norm_eps: expected a finite number >= 0, got"):
        vgf.network(PARAMS["critic"], norm_eps=eps)


def test_every_function_inside_jit():
    p = PROBLEM

    @jax.jit
    def everything(params, obs, x, noise, select_noise, reward, mask):
        critic, target, policy = (network(params[k]) for k in ("critic", "target_critic", "policy"))
        q, dq = vgf.value_and_grad(critic, obs, x, "min")
        return {
            "value": vgf.value(critic, obs, x),
            "q": q,
            "dq": dq,
            "direction": vgf.direction(critic, obs, x, CONFIG),
            "flow": vgf.flow(critic, obs, x, CONFIG, True),
            "sample": vgf.sample(policy, obs, noise, 4),
            "select": vgf.select(q, "softmax", temperature=0.3, noise=select_noise),
            "act": vgf.act(critic, policy, obs, noise, 4, CONFIG, "uniform", select_noise=select_noise),
            "td_target": vgf.td_target(
                critic, target, policy, obs, noise, reward, mask, 0.99, 4, CONFIG, "min"
            ),
            "transport": vgf.transport(lambda y: -y, x, CONFIG),
        }

    got = everything(PARAMS, p.obs, p.particles, p.noise, p.select_noise, p.reward, p.mask)
    plain = vgf_kernels.numpy
    q, dq = plain.value_and_grad(p.critic, p.obs, p.particles, "min")
    wanted = {
        "value": plain.value(p.critic, p.obs, p.particles),
        "q": q,
        "dq": dq,
        "direction": plain.direction(p.critic, p.obs, p.particles, CONFIG),
        "flow": plain.flow(p.critic, p.obs, p.particles, CONFIG, True),
        "sample": plain.sample(p.policy, p.obs, p.noise, 4),
        "select": plain.select(q, "softmax", temperature=0.3, noise=p.select_noise),
        "act": plain.act(
            p.critic, p.policy, p.obs, p.noise, 4, CONFIG, "uniform", select_noise=p.select_noise
        ),
        "td_target": plain.td_target(
            p.critic, p.target_critic, p.policy, p.obs, p.noise, p.reward, p.mask, 0.99, 4, CONFIG, "min"
        ),
        "transport": plain.transport(lambda y: -y, p.particles, CONFIG),
    }
    assert got.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(got[name], array, err_msg=name)


def test_loops():
    critic = network(PARAMS["critic"])
    wanted = PROBLEM.particles
    for _ in range(3):
        wanted = expected_flow(x=wanted)

    @jax.jit
    def scanned(x):
        return jax.lax.scan(lambda x, _: (flow(critic, x), None), x, None, length=3)[0]

    @jax.jit
    def looped(packed, x):
        return jax.lax.fori_loop(0, 3, lambda _, x: flow(packed, x), x)

    np.testing.assert_array_equal(scanned(PROBLEM.particles), wanted)
    np.testing.assert_array_equal(looped(vgf.pack(critic), PROBLEM.particles), wanted)


@pytest.mark.parametrize("backend", BACKENDS)
def test_without_jit(backend):
    with jax.disable_jit():
        got = flow(network(PARAMS["critic"]), jnp.asarray(PROBLEM.particles), backend=backend)
    wanted = vgf_kernels.numpy.flow(PROBLEM.critic, PROBLEM.obs, PROBLEM.particles, CONFIG, backend=backend)
    np.testing.assert_array_equal(got, wanted)


# ---- step counts


@pytest.mark.parametrize("function", [flow, lambda c, x, **k: vgf.transport(lambda y: flow(c, y, num_steps=0), x, CONFIG, **k)])
def test_traced_step_counts_of_other_types(function):
    """Unsigned ones, and with x64 those that int32 does not hold, which are refused where they are negative."""
    critic, x = network(PARAMS["critic"]), PROBLEM.particles
    run = jax.jit(lambda n: function(critic, x, num_steps=n))
    np.testing.assert_array_equal(run(np.uint32(2)), run(2))
    jax.config.update("jax_enable_x64", True)
    try:
        np.testing.assert_array_equal(run(np.int64(2)), run(np.uint64(2)))
        if function is flow:
            with pytest.raises(Exception, match="expected at least 0"):
                run(np.int64(-(2**32) + 3))
    finally:
        jax.config.update("jax_enable_x64", False)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("traced", [False, True])
def test_too_few_steps(backend, traced):
    """Of an array only the engine sees the value."""
    critic, policy, p = network(PARAMS["critic"]), network(PARAMS["policy"]), PROBLEM
    calls = [
        lambda n: vgf.sample(policy, p.obs, p.noise, n, backend=backend),
        lambda n: vgf.act(critic, policy, p.obs, p.noise, n, CONFIG, backend=backend),
        lambda n: vgf.td_target(
            critic, critic, policy, p.obs, p.noise, p.reward, p.mask, 0.9, n, CONFIG, backend=backend
        ),
        lambda n: flow(critic, p.particles, num_steps=n - 1, backend=backend),
    ]
    for call in calls:
        with pytest.raises(Exception, match="expected at least|expected an integer >="):
            jax.block_until_ready((jax.jit(call) if traced else call)(jnp.asarray(0)))
    if not traced:
        with pytest.raises(ValueError, match="num_steps: expected an integer >= 0, got -1"):
            vgf.transport(jnp.sin, p.particles, CONFIG, num_steps=jnp.asarray(-1), backend=backend)


def test_step_counts_that_are_none():
    p, policy = PROBLEM, network(PARAMS["policy"])
    with pytest.raises(TypeError, match="num_steps: expected an integer scalar, got float32"):
        vgf.sample(policy, p.obs, p.noise, jnp.asarray(2.0))
    with pytest.raises(ValueError, match=r"num_steps: expected an integer >= 1, got array\(2\); use int\(num_steps\)"):
        vgf.sample(policy, p.obs, p.noise, np.asarray(2))


@pytest.mark.parametrize("backend", BACKENDS)
def test_traced_step_counts_compile_once(backend):
    critic, policy = network(PARAMS["critic"]), network(PARAMS["policy"])
    p = PROBLEM

    @jax.jit
    def run(steps, euler_steps):
        run.traced += 1
        moved = flow(critic, p.particles, num_steps=steps, backend=backend)
        drawn = vgf.sample(policy, p.obs, p.noise, euler_steps, backend=backend)
        acted = vgf.act(critic, policy, p.obs, p.noise, euler_steps, CONFIG, num_steps=steps, backend=backend)
        carried = vgf.transport(lambda x: -x, p.particles, CONFIG, num_steps=steps, backend=backend)
        return moved, drawn, acted, carried

    run.traced = 0
    plain = vgf_kernels.numpy
    for steps, euler_steps in ((0, 1), (2, 5), (5, 3)):
        config = FlowConfig(num_steps=steps, learning_rate=0.1, alpha=0.2)
        wanted = (
            plain.flow(p.critic, p.obs, p.particles, config, backend=backend),
            plain.sample(p.policy, p.obs, p.noise, euler_steps, backend=backend),
            plain.act(p.critic, p.policy, p.obs, p.noise, euler_steps, config, backend=backend),
            plain.transport(lambda x: -x, p.particles, config, backend=backend),
        )
        for got, want in zip(run(steps, euler_steps), wanted):
            np.testing.assert_array_equal(got, want)
    assert run.traced == 1


def test_a_static_num_steps_takes_the_configs_place():
    got = flow(network(PARAMS["critic"]), PROBLEM.particles, trajectory=True, num_steps=5)
    assert got.shape[0] == 6
    wanted = expected_flow(config=FlowConfig(num_steps=5, learning_rate=0.1, alpha=0.2))
    np.testing.assert_array_equal(got[-1], wanted)


@pytest.mark.parametrize("steps", [0, 1])
def test_the_fewest_steps_of_act_and_td_target(steps):
    """Of none the critic needs no gradient, of one it does."""
    p, config = PROBLEM, FlowConfig(num_steps=steps, learning_rate=0.1, alpha=0.2)
    critic, target, policy = (network(PARAMS[name]) for name in ("critic", "target_critic", "policy"))
    got = vgf.act(critic, policy, p.obs, p.noise, 2, config)
    np.testing.assert_array_equal(got, vgf_kernels.numpy.act(p.critic, p.policy, p.obs, p.noise, 2, config))
    rest = p.obs, p.noise, p.reward, p.mask, 0.9, 2, config
    got = vgf.td_target(critic, target, policy, *rest)
    np.testing.assert_array_equal(got, vgf_kernels.numpy.td_target(p.critic, p.target_critic, p.policy, *rest))


def test_step_counts_that_are_refused():
    critic = network(PARAMS["critic"])
    with pytest.raises(Exception, match="num_steps, traced: expected at least 0 steps, got -1"):
        jax.block_until_ready(flow(critic, PROBLEM.particles, num_steps=jnp.int32(-1)))
    with pytest.raises(Exception, match="num_steps of sample.*, traced: expected at least 1 steps, got 0"):
        jax.block_until_ready(vgf.sample(network(PARAMS["policy"]), PROBLEM.obs, PROBLEM.noise, jnp.int32(0), backend="cpu"))
    with pytest.raises(ValueError, match="num_steps: expected an integer >= 0, got -1"):
        flow(critic, PROBLEM.particles, num_steps=-1)
    with pytest.raises(TypeError, match="num_steps: expected an int with trajectory=True"):
        flow(critic, PROBLEM.particles, trajectory=True, num_steps=jnp.int32(2))
    for steps in (jnp.float32(2), jnp.arange(3)):
        with pytest.raises(TypeError, match=f"num_steps: expected an integer scalar, got {steps.dtype} of shape"):
            flow(critic, PROBLEM.particles, num_steps=steps)
    with pytest.raises(TypeError, match="num_steps: expected an int or a jax.Array, got ndarray; use int"):
        flow(critic, PROBLEM.particles, num_steps=np.array(2))


# ---- gradients


def td_target(mask, discount):
    p = PROBLEM
    networks = (p.critic, p.target_critic, p.policy)
    return vgf.td_target(*networks, p.obs, p.noise, p.reward, mask, discount, 2, CONFIG, backend="cpu")


SETTINGS = {
    "learning_rate": lambda v: FlowConfig(learning_rate=v),
    "alpha": lambda v: FlowConfig(alpha=v),
    "bandwidth": lambda v: FlowConfig(bandwidth=v),
    "clip": lambda v: FlowConfig(clip=(-v, v)),
    "temperature": lambda v: vgf.select(PROBLEM.select_noise, temperature=v),
    "norm_eps": lambda v: vgf.network(PARAMS["critic"], norm_eps=v),
    "max_norm": lambda v: vgf.transport(lambda x: x, PROBLEM.particles, CONFIG, max_norm=v),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_traced_setting_is_refused_with_what_to_do(name):
    def use(v):
        SETTINGS[name](v)
        return v

    with pytest.raises(ValueError, match=rf"{name}: expected .*Trace.*; .*static_argnames"):
        jax.jit(use)(0.5)
    jax.jit(use, static_argnames="v")(v=0.5)


def test_bounds_beyond_float32_bound_nothing():
    critic, wide = network(PARAMS["critic"]), FlowConfig(num_steps=3, learning_rate=0.1, alpha=0.2, clip=(-1e40, 1e40))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = vgf.flow(critic, PROBLEM.obs, PROBLEM.particles, wide, backend="cpu")
    np.testing.assert_array_equal(got, expected_flow(config=replace(wide, clip=None)))


def test_a_traced_num_steps_goes_beside_the_config():
    with pytest.raises(ValueError, match="num_steps: expected an integer.*Trace.*; .*vgf_kernels.jax.* num_steps="):
        jax.jit(lambda v: FlowConfig(num_steps=v) and v)(1)


def test_a_traced_discount_goes_into_the_mask():
    with pytest.raises(ValueError, match=r"discount: expected .*Trace.*; .*discount=1.0, mask=discount \* mask"):
        jax.jit(td_target)(PROBLEM.mask, 0.9)
    got = jax.jit(lambda discount: td_target(discount * PROBLEM.mask, 1.0))(0.9)
    np.testing.assert_allclose(got, td_target(PROBLEM.mask, 0.9), rtol=1e-6, atol=1e-6)


def test_an_export_must_say_that_custom_calls_are_kept():
    from jax import export

    def move(x):
        return flow(network(PARAMS["critic"]), x, backend="cpu")

    x = jnp.asarray(PROBLEM.particles)
    with pytest.raises(ValueError, match="custom calls .*no compatibility guarantees"):
        export.export(jax.jit(move))(x)
    kept = [export.DisabledSafetyCheck.custom_call(name) for name in ("vgf_pack", "vgf_flow")]
    exported = export.export(jax.jit(move), disabled_checks=kept)(x)
    np.testing.assert_array_equal(exported.call(x), expected_flow())


def test_the_gradient_of_value():
    p = PROBLEM
    critic = network(PARAMS["critic"])
    weights = np.random.default_rng(0).normal(size=(3, *p.particles.shape[:2])).astype(np.float32)

    def loss(x):
        return jnp.sum(vgf.value(critic, p.obs, x) * weights)

    exact = sum(
        w[..., None].astype(np.float64) * reference.value_and_grad(member, p.obs, p.particles)[1]
        for w, member in zip(weights, (p.at(np.float64).critic.member(e) for e in range(3)))
    )
    for gradient in (jax.grad(loss), jax.jit(jax.grad(loss))):
        assert relative_error(np.asarray(gradient(p.particles)), exact) < 1e-5


def test_a_loss_that_does_not_look_at_the_value():
    """No gradient comes back for it, which is one of zeros."""
    critic, x = network(PARAMS["critic"]), PROBLEM.particles

    def both(x):
        return vgf.value(critic, PROBLEM.obs, x), x.sum()

    q, pull = jax.vjp(both, x)
    np.testing.assert_array_equal(pull((jnp.zeros_like(q[0]), jnp.float32(1)))[0], np.ones_like(x))
    for loss in (lambda x: both(x)[1], lambda x: 0 * jax.lax.stop_gradient(both(x)[0]).sum() + both(x)[1]):
        np.testing.assert_array_equal(jax.grad(loss)(x), np.ones_like(x))


def test_parameters_are_constants():
    p = PROBLEM

    def loss(params, x):
        critic = network(params)
        return jnp.sum(vgf.value(critic, p.obs, x)) + jnp.sum(flow(critic, x))

    for_params, for_actions = jax.grad(loss, argnums=(0, 1))(PARAMS["critic"], p.particles)
    assert all(not leaf.any() for leaf in jax.tree.leaves(for_params))
    wanted = jax.grad(lambda x: jnp.sum(vgf.value(network(PARAMS["critic"]), p.obs, x)))(p.particles)
    np.testing.assert_array_equal(for_actions, wanted)  # the flow adds nothing


def test_a_gradient_for_obs_is_refused():
    critic = network(PARAMS["critic"])
    with pytest.raises(ValueError, match="obs: expected an array that is not differentiated"):
        jax.grad(lambda obs: jnp.sum(vgf.value(critic, obs, PROBLEM.particles)))(PROBLEM.obs)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_second_derivative_is_refused(backend):
    critic, p = network(PARAMS["critic"]), PROBLEM

    def slopes(x):
        return jnp.sum(jax.grad(lambda x: jnp.sum(vgf.value(critic, p.obs, x, backend=backend)))(x) ** 2)

    with pytest.raises(NotImplementedError, match="differentiated once, .*; .* use plain JAX for it"):
        jax.grad(slopes)(p.particles)


# ---- what it cannot do


def test_the_reference_makes_no_float32_of_float64():
    critic, wide = network(PARAMS["critic"]), PROBLEM.particles.astype(np.float64)
    with pytest.raises(TypeError, match="actions: expected float32, got float64, .*; set jax_enable_x64 or cast it"):
        vgf.value(critic, PROBLEM.obs.astype(np.float64), wide, backend="reference")


@pytest.mark.parametrize("backend", ["auto", "cpu"])
def test_float64_is_refused_by_name(backend):
    """With JAX's x64 mode and without it, in which JAX itself would cast the array silently."""
    critic = network(PARAMS["critic"])
    wide = PROBLEM.particles.astype(np.float64)
    message = "the cpu engine computes float32, got float64 arrays; cast them to float32"
    with pytest.raises(TypeError, match=message):
        vgf.value(critic, PROBLEM.obs.astype(np.float64), wide, backend=backend)
    with pytest.raises(TypeError, match="actions: expected the dtype of obs, float32, got float64; cast one"):
        vgf.value(critic, PROBLEM.obs, wide, backend=backend)


@pytest.mark.parametrize("platforms", [("tpu",), ("cpu", "tpu"), ("tpu", "cpu")])
def test_another_platform_is_refused_when_it_is_compiled_for(platforms):
    run = jax.jit(lambda x: flow(network(PARAMS["critic"]), x))
    with pytest.raises(ValueError, match="computes on cpu and cuda, but this is compiled for tpu; move the"):
        run.trace(PROBLEM.particles).lower(lowering_platforms=platforms)


def test_a_precision_that_the_platforms_engine_does_not_have():
    with pytest.raises(ValueError, match="precision: the cpu engine has fp32, bf16, got 'tf32'; pass one of"):
        flow(network(PARAMS["critic"]), PROBLEM.particles, precision="tf32")


@pytest.mark.parametrize(
    ("given", "remedy"),
    [(PARAMS["critic"], r"got dict; make one with network\(params\)"),
     (types.SimpleNamespace(params=PARAMS["critic"]), r"make one with network\(state.params\)")],
)  # fmt: skip
def test_parameters_are_not_yet_a_network(given, remedy):
    with pytest.raises(TypeError, match=f"critic: expected a Network, .*{remedy}"):
        flow(given, PROBLEM.particles)


def test_torch_mlps_are_refused():
    pytest.importorskip("torch")
    live = vgf.MLP.from_torch(PROBLEM.critic.to_torch())
    with pytest.raises(
        TypeError, match=r"expected an MLP of arrays, got MLP\(.*torch\), .*; pass mlp.freeze\(\)"
    ):
        flow(live, PROBLEM.particles)
    np.testing.assert_array_equal(flow(live.freeze(), PROBLEM.particles), expected_flow())
    elsewhere = vgf.MLP.from_torch(PROBLEM.critic.to_torch().to("meta")).freeze()  # as of a GPU
    with pytest.raises(TypeError, match=r"tensors on meta; pass MLP.from_torch\(module.cpu\(\)\).freeze\(\), or network"):
        flow(elsewhere, PROBLEM.particles)


@pytest.mark.parametrize("backend", ["triton", "cuda"])
def test_engines_of_other_frontends(backend):
    with pytest.raises((RuntimeError, ValueError), match=f"'{backend}'"):
        flow(network(PARAMS["critic"]), PROBLEM.particles, backend=backend)


def test_trees_that_are_no_network():
    layers = PARAMS["policy"]["mlp"]
    with pytest.raises(ValueError, match="expected a tree with Dense_0"):
        vgf.network({"conv": {}})
    with pytest.raises(ValueError, match="Dense_1 lacks 'bias'"):
        vgf.network({**layers, "Dense_1": {"kernel": layers["Dense_1"]["kernel"]}})
    with pytest.raises(ValueError, match="widths do not chain"):
        vgf.network({**layers, "Dense_1": layers["Dense_0"]})
    with pytest.raises(ValueError, match="activation: expected one of"):
        vgf.network(layers, activation="sine")
