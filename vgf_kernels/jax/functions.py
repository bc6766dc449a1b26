"""The public functions on jax arrays: check, then call an engine. All of them may be traced."""

from __future__ import annotations

import dataclasses
import functools
import numbers
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from .. import checks, engines, ranges
from ..config import FlowConfig
from ..docs import documented
from ..mlp import MLP
from ..settings import check_choice, check_clip, check_positive, is_array
from . import arrays, fused, host, platforms
from .arrays import Array
from .networks import Network, Packed, as_networks, check_score_network, is_network
from .primitive import varying_as
from .selection import aggregated, chosen

AnyNetwork = Network | Packed | MLP
ENGINES = (*platforms.ENGINES, "reference")

NETWORKS = "Networks are what `network` or `pack` returned, or a snapshot MLP."
CONSTANT = f"""{NETWORKS} The inputs are constants to autodiff: the
    result has no gradient."""
STEPS = """num_steps, an int or a traced int32 scalar, takes the place of config.num_steps: another
    number then compiles nothing anew."""


def register() -> None:
    """Make the engine of the default platform known to XLA, for programs that another process has exported.

    A process that has called any other function has done so.

    Raises:
        RuntimeError: the engine's module cannot be imported, or this jaxlib does not take it.
    """
    platforms.engine_for(None, platforms.default()).handlers()


def pack(
    network: Network,
    *,
    gradient: bool | None = None,
    role: str | None = None,
    observations: int | None = None,
    backend: str = "auto",
    precision: str | None = None,
) -> Packed:
    """The weights in an engine's own layout, for several calls with the same weights.

    Inside jit as outside. Every function packs what comes as a Network (in float32 on the CPU, of up to 128 particles,
    only what it cannot read in place); pack it yourself before a loop, or where several calls share a network. Packed
    weights are a snapshot of the weights they were made of, and serve one engine: "auto" takes that of the platform
    on which JAX puts what nobody has placed.

    Args:
        network: what `network` returned, or a snapshot MLP.
        gradient: whether the gradient's part is packed too, which all but `value`, `sample` and the target
            critic of `td_target` need. None: for a critic.
        role: "critic", "policy" or "score" (of `transport`). None: a critic, where the last width is 1, else a
            policy.
        observations: O, which the cuda engine must know; the others need neither this nor `role`.
        backend: "auto", "cpu" or "cuda".
        precision: "fp32", "tf32" or "bf16"; None is fp32 on the CPU, on a GPU jax_default_matmul_precision.

    Raises:
        ValueError: a setting does not fit.
        TypeError: no network, or weights that are not float32.
        RuntimeError: the engine is not available here.
    """
    (network,) = as_networks(network=network)
    if not isinstance(network, Network):
        raise TypeError(f"network: expected what `network` returned, got {type(network).__name__}")
    network.check_shapes()
    role = ("critic" if network.widths[-1] == 1 else "policy") if role is None else role
    check_choice("role", role, ("critic", "policy", "score"))
    if not isinstance(gradient, (bool, type(None))):
        raise TypeError(f"gradient: expected True, False or None, got {gradient!r}")
    if observations is not None and (not isinstance(observations, numbers.Integral) or observations < 0):
        raise ValueError(f"observations: expected how many inputs are observations, got {observations!r}; pass obs.shape[-1]")
    engine = _engine(backend, precision, "network", network.layers[0].W, network)
    return engine.pack(network, role == "critic" if gradient is None else gradient, role, observations)


@documented(
    f"""{NETWORKS} Differentiable once, in reverse mode, with respect to the
    actions. The critic's parameters are constants: their gradient is zero. A gradient with respect to obs
    is refused (ValueError), and so is a second derivative (NotImplementedError)."""
)
def value(
    critic: AnyNetwork, obs: Array, actions: Array, *, backend: str = "auto", precision: str | None = None
) -> jax.Array:
    (critic,) = as_networks(critic=critic)
    arrays.check(obs=obs, actions=actions)
    checks.check_value(critic, obs.shape, actions.shape)
    engine = _engine(backend, precision, "actions", actions, critic)
    (actions,) = varying_as(jax.tree.leaves((critic, obs)), [actions])  # or their gradient would be of another type
    with _span("value", actions):
        return _value(engine, jax.tree.map(_constant, critic), obs, actions)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _value(engine, critic, obs, actions):
    return engine.value(critic, obs, actions)


def _value_forward(engine, critic, obs, actions):
    if obs.perturbed:
        raise ValueError(
            "obs: expected an array that is not differentiated, since only actions get a gradient here; pass "
            "jax.lax.stop_gradient(obs), or use plain JAX for a gradient with respect to obs"
        )
    critic = jax.tree.map(lambda leaf: leaf.value, critic, is_leaf=lambda leaf: hasattr(leaf, "perturbed"))
    return engine.jacobian(critic, obs.value, actions.value)


def _value_backward(engine, dq, grad_q):
    if isinstance(grad_q, jax.custom_derivatives.SymbolicZero):
        return None, None, jnp.zeros(dq.shape[1:], dq.dtype)
    return None, None, jnp.sum(grad_q[..., None] * dq, axis=0)


_value.defvjp(_value_forward, _value_backward, symbolic_zeros=True)


@documented(CONSTANT + "\n    `value` is the differentiable one.")
def value_and_grad(
    critic: AnyNetwork,
    obs: Array,
    actions: Array,
    aggregate: str = "mean",
    *,
    backend: str = "auto",
    precision: str | None = None,
) -> tuple[jax.Array, jax.Array]:
    (critic,) = as_networks(critic=critic)
    arrays.check(obs=obs, actions=actions)
    checks.check_value(critic, obs.shape, actions.shape, aggregate)
    engine = _engine(backend, precision, "actions", actions, critic)
    return _call(engine.value_and_grad, actions, critic, obs, actions, aggregate)


@documented(CONSTANT)
def direction(
    critic: AnyNetwork,
    obs: Array,
    particles: Array,
    config: FlowConfig,
    *,
    backend: str = "auto",
    precision: str | None = None,
) -> jax.Array:
    (critic,) = as_networks(critic=critic)
    arrays.check(obs=obs, particles=particles)
    checks.check_flow(critic, obs.shape, particles.shape, config)
    engine = _engine(backend, precision, "particles", particles, critic)
    return _call(engine.direction, particles, critic, obs, particles, config)


@documented(f"{CONSTANT} {STEPS}\n    Not with trajectory=True, whose result has num_steps in its shape.")
def flow(
    critic: AnyNetwork,
    obs: Array,
    particles: Array,
    config: FlowConfig,
    trajectory: bool = False,
    *,
    num_steps: int | jax.Array | None = None,
    backend: str = "auto",
    precision: str | None = None,
) -> jax.Array:
    (critic,) = as_networks(critic=critic)
    arrays.check(obs=obs, particles=particles)
    checks.check_flow(critic, obs.shape, particles.shape, config, trajectory)
    config, num_steps = _steps(config, num_steps, trajectory)
    engine = _engine(backend, precision, "particles", particles, critic)
    return _call(engine.flow, particles, critic, obs, particles, config, num_steps, trajectory)


@documented(f"{CONSTANT} num_steps may be a traced int32 scalar.")
def sample(
    policy: AnyNetwork,
    obs: Array,
    noise: Array,
    num_steps: int | jax.Array,
    clip: tuple[float, float] | None = (-1.0, 1.0),
    *,
    backend: str = "auto",
    precision: str | None = None,
) -> jax.Array:
    (policy,) = as_networks(policy=policy)
    arrays.check(obs=obs, noise=noise)
    checks.check_sample(policy, obs.shape, noise.shape, _least("num_steps", num_steps))
    clip = check_clip(clip)
    engine = _engine(backend, precision, "noise", noise, policy)
    return _call(engine.sample, noise, policy, obs, noise, num_steps, clip)


@documented("A few jnp operations, the same whatever the backend. The index has JAX's default integer dtype.")
def select(
    q: Array,
    how: str = "max",
    *,
    aggregate: str = "mean",
    temperature: float = 1.0,
    noise: Array | None = None,
    backend: str = "auto",
    precision: str | None = None,
) -> jax.Array:
    arrays.check(q=q, **({} if noise is None else {"noise": noise}))
    checks.check_engine(backend, precision)
    engines.check_available(engines.requested(backend))
    checks.check_select(q.shape, how, aggregate, temperature, _shape(noise))
    checks.check_floating("q", jnp.issubdtype(q.dtype, jnp.floating), q.dtype)
    with ranges.span("select", q.shape[-2] * q.shape[-1]):
        if len(q.shape) == 3:
            q = aggregated(q, aggregate)
        return chosen(q, how, temperature, noise)


@documented(f"{CONSTANT} {STEPS} So may euler_steps.")
def act(
    critic: AnyNetwork,
    policy: AnyNetwork,
    obs: Array,
    noise: Array,
    euler_steps: int | jax.Array,
    config: FlowConfig,
    select: str = "max",
    aggregate: str = "mean",
    *,
    temperature: float = 1.0,
    select_noise: Array | None = None,
    num_steps: int | jax.Array | None = None,
    backend: str = "auto",
    precision: str | None = None,
) -> jax.Array:
    critic, policy = as_networks(critic=critic, policy=policy)
    arrays.check(obs=obs, noise=noise)
    if select_noise is not None:
        arrays.check(obs=obs, select_noise=select_noise)
    checks.check_act(
        critic, policy, obs.shape, noise.shape, _least("euler_steps", euler_steps), config, select, aggregate, temperature,
        _shape(select_noise),
    )  # fmt: skip
    config, num_steps = _steps(config, num_steps)
    engine = _engine(backend, precision, "noise", noise, critic, policy)
    return _call(
        engine.act, noise,
        critic, policy, obs, noise, euler_steps, config, num_steps, select, aggregate, temperature, select_noise,
    )  # fmt: skip


@documented(f"{CONSTANT} {STEPS} So may euler_steps.")
def td_target(
    critic: AnyNetwork,
    target_critic: AnyNetwork,
    policy: AnyNetwork,
    next_obs: Array,
    noise: Array,
    reward: Array,
    mask: Array,
    discount: float,
    euler_steps: int | jax.Array,
    config: FlowConfig,
    aggregate: str = "mean",
    reduce: str = "mean",
    *,
    num_steps: int | jax.Array | None = None,
    backend: str = "auto",
    precision: str | None = None,
) -> jax.Array:
    critic, target_critic, policy = as_networks(critic=critic, target_critic=target_critic, policy=policy)
    arrays.check(next_obs=next_obs, noise=noise, reward=reward, mask=mask)
    checks.check_td_target(
        critic, target_critic, policy, next_obs.shape, noise.shape, reward.shape, mask.shape,
        discount, _least("euler_steps", euler_steps), config, aggregate, reduce,
    )  # fmt: skip
    config, num_steps = _steps(config, num_steps)
    engine = _engine(backend, precision, "noise", noise, critic, target_critic, policy)
    return _call(
        engine.td_target, noise,
        critic, target_critic, policy, next_obs, noise, reward, mask,
        discount, euler_steps, config, num_steps, aggregate, reduce,
    )  # fmt: skip


@documented(
    f"""score_fn may be a network from O + A inputs to A outputs instead, as amortized VGF learns one: the
    engine then evaluates it at `obs` [B, O] and the particles. pack(score, role="score") packs it once for
    several calls. max_norm scales dq down where its norm, over
    the whole batch, is larger (optax.clip_by_global_norm). Amortized VGF moves along the score itself, with
    neither kernel nor temperature: FlowConfig(kernel=None, alpha=1/N).
    The inputs are constants to autodiff, and so is what score_fn returns. {STEPS}"""
)
def transport(
    score_fn: Callable[[jax.Array], jax.Array] | AnyNetwork,
    particles: Array,
    config: FlowConfig,
    trajectory: bool = False,
    *,
    obs: Array | None = None,
    max_norm: float | None = None,
    num_steps: int | jax.Array | None = None,
    backend: str = "auto",
    precision: str | None = None,
) -> jax.Array:
    learned = is_network(score_fn) or (obs is not None and hasattr(score_fn, "params"))
    if learned:
        (network,) = as_networks(score_fn=score_fn)
        if obs is None:
            raise TypeError("obs: expected an array [B, O], at which a score network is evaluated, got None; pass obs=")
    elif obs is not None:
        raise TypeError("obs: expected None with a function, which is given the particles alone; use them within it")
    arrays.check(particles=particles, **({"obs": obs} if learned else {}))
    # of a network, the function that stands for it further down
    checks.check_transport(_field if learned else score_fn, particles.shape, config, trajectory)
    if max_norm is not None:
        check_positive("max_norm", max_norm)
    config, num_steps = _steps(config, num_steps, trajectory)
    if learned:
        check_score_network(network, obs.shape, particles.shape)
        engine = _engine(backend, precision, "particles", particles, network)
        score_fn = _field(engine, network, obs, particles)
    else:
        engine = _engine(backend, precision, "particles", particles)

    def move(step, state):
        x, *moments = state
        dq = score_fn(x)
        arrays.check(**{"particles": x, "the result of score_fn": dq})
        checks.check_score(dq.shape, x.shape)
        if max_norm is not None:
            dq = _bounded(dq, float(max_norm))  # JAX takes no integer of more than 32 bits
        return _call(engine.update, x, x, dq, *moments, step + 1, config)

    start = jax.lax.stop_gradient(jnp.asarray(particles))
    moment = jnp.zeros_like(start, dtype=jnp.promote_types(start.dtype, jnp.float32))
    state = (start, moment, moment)
    with _span("transport", start):
        if _is_concrete(start) and not isinstance(num_steps, jax.core.Tracer):
            # Outside of jit. A loop of XLA's would be compiled anew in every call, for it closes over score_fn.
            _, count = _steps(config, int(num_steps))  # or an error for one below zero
            path = [start]
            for step in range(count):
                state = move(step, state)
                path = [*path, state[0]] if trajectory else [state[0]]
            return jnp.stack(path) if trajectory else path[-1]
        state = tuple(varying_as(jax.eval_shape(move, 0, state), state))  # loops end with the types they begin with
        if not trajectory:
            return jax.lax.fori_loop(0, fused.as_count(num_steps), move, state)[0]

        def record(state, step):
            state = move(step, state)
            return state, state[0]

        _, path = jax.lax.scan(record, state, jnp.arange(config.num_steps))
        return jnp.concatenate([state[0][None], path])


def _is_concrete(array: Any) -> bool:
    """Whether nobody traces the array, though vmap may map it."""
    while hasattr(array, "batch_dim"):
        array = array.val
    return not isinstance(array, jax.core.Tracer)


@jax.jit
def _bounded(dq: jax.Array, max_norm: float) -> jax.Array:
    norm = jnp.sqrt(jnp.sum(jnp.square(dq)))
    return jnp.where(norm < max_norm, dq, dq / norm * max_norm)


def _field(engine, network: Network | Packed, obs: Array, particles: Array) -> Callable[[jax.Array], jax.Array]:
    """x -> the network's output at concat(obs, x), by the engine's sampler.

    One Euler step of length one along a velocity field that does not look at the time ends at x + v. The
    round-off of taking x off again is that of a number of the size of x.
    """
    b, n, _ = particles.shape
    policy = engine.prepare(jax.tree.map(_constant, network), obs.shape[1], b * n)
    obs = _constant(obs)
    return lambda x: engine.sample(policy, obs, x, 1, None) - x


def draw_noise(key: jax.Array, B: int, N: int, A: int) -> jax.Array:
    """Standard normal noise [B, N, A], float32, for `sample`, `act` and `td_target`.

    Raises:
        TypeError: the key is no array.
        ValueError: a size is not an integer of 1 or more.
    """
    checks.check_noise(B=B, N=N, A=A)
    if not hasattr(key, "dtype"):
        raise TypeError(f"key: expected a key of jax.random, got {type(key).__name__}; use jax.random.key(0)")
    return jax.random.normal(key, (B, N, A), jnp.float32)


# ---- their parts


def _engine(backend: str, precision: str | None, name: str, like: Any, *networks: Any):
    """The engine for arrays like this one, which the caller calls `name`, and for these networks.

    What "auto" is shows when the computation is compiled for a platform, which tells the engine; so does whether
    a precision is one of its own.
    """
    checks.check_engine(backend, precision)
    backend = engines.requested(backend)
    if backend not in ("auto", *ENGINES):
        engines.check_available(backend)
        raise ValueError(
            f"backend: the JAX frontend has {', '.join(ENGINES)}, got {backend!r}; vgf_kernels.torch has the others"
        )
    dtype = arrays.dtype(like)
    if backend == "auto":
        engines.check_number_format(platforms.default_engine(), dtype, None)
        engine = fused.Engine(None, precision)
    else:
        place = arrays.device(like) or engines.MODULES[backend].DEVICE
        engines.resolve(backend, place, dtype, precision)
        if backend == "reference" and dtype == "float64" and not jax.config.jax_enable_x64:
            raise TypeError(
                f"{name}: expected float32, got float64, of which JAX makes float32 here; set jax_enable_x64 or cast it"
            )
        engine = host.Engine(precision) if backend == "reference" else fused.Engine(backend, precision)
    engine.check(networks)
    return engine


def _call(method: Callable, like: Any, *args: Any) -> Any:
    """Run a method of an engine on constants, in an NVTX range: of the call itself, or of its tracing."""
    with _span(method.__name__, like):
        return method(*jax.tree.map(_constant, args))


def _constant(leaf: Any) -> Any:
    return jax.lax.stop_gradient(leaf) if isinstance(leaf, jax.core.Tracer) else leaf


def _span(name: str, like: Any):
    return ranges.span(name, like.shape[0] * like.shape[1])


def _steps(config: FlowConfig, num_steps: Any, trajectory: bool = False) -> tuple[FlowConfig, Any]:
    """The config and the number of flow steps, as an int where it is known."""
    if num_steps is None:
        return config, config.num_steps
    if isinstance(num_steps, jax.Array):
        if trajectory:
            raise TypeError(
                "num_steps: expected an int with trajectory=True, whose result has it in its shape, got an array"
            )
        _check_count("num_steps", num_steps)
        return config, num_steps
    if is_array(num_steps):
        raise TypeError(f"num_steps: expected an int or a jax.Array, got {type(num_steps).__name__}; use int(num_steps)")
    config = dataclasses.replace(config, num_steps=num_steps)
    return config, config.num_steps


def _least(name: str, steps: Any) -> Any:
    """What the checks may see of a number of Euler steps: an array passes for the least they allow.

    Its value is checked when the call runs.
    """
    if isinstance(steps, jax.Array):
        _check_count(name, steps)
        return 1
    return steps


def _check_count(name: str, steps: jax.Array) -> None:
    if steps.shape != () or not jnp.issubdtype(steps.dtype, jnp.integer):
        raise TypeError(f"{name}: expected an integer scalar, got {steps.dtype} of shape {steps.shape}")


def _shape(array: Any):
    return None if array is None else array.shape
