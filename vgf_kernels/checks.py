"""Checks of shapes and settings, shared by every frontend: what was expected, what came and what to do.

They see shapes and plain settings only, never array contents, so torch.compile traces through them.
Non-finite numbers inside arrays are no error: they propagate within their own state and never across states.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .config import FlowConfig
from .mlp import MLP, Described
from .settings import LEAST, check_choice, check_limit, check_positive, is_array, is_finite

ENGINES = ("cuda", "triton", "cpu", "reference")
PRECISIONS = ("fp32", "tf32", "bf16")
REFERENCE_DTYPES = ("float16", "float32", "float64")
AGGREGATES = ("mean", "min")
SELECTS = ("max", "softmax", "uniform")
REDUCES = ("mean", "max")


def check_engine(backend, precision) -> None:
    """Raise ValueError unless backend and precision are names this library knows."""
    check_choice("backend", backend, ("auto", *ENGINES))
    check_choice("precision", precision, (None, *PRECISIONS))


def check_arrays(array_type: Any, remedy: str, **arrays: Any) -> None:
    """Every array is of the frontend's type, and all have one dtype."""
    first_name, first = next(iter(arrays.items()))
    for name, array in arrays.items():
        if not isinstance(array, array_type):
            raise TypeError(f"{name}: expected {array_type.__name__}, got {type(array).__name__}; {remedy}")
        if array.dtype != first.dtype:
            # of which every engine computes float32
            odd, good = (first_name, name) if str(array.dtype).endswith("float32") else (name, first_name)
            raise TypeError(
                f"{odd}: expected the dtype of {good}, {arrays[good].dtype}, got {arrays[odd].dtype}; cast one"
            )


def check_plain(name: str, array: Any) -> None:
    """A NumPy array is no more than its numbers; the mask of a masked one, say, would be lost."""
    if isinstance(array, np.ndarray) and type(array) not in (np.ndarray, np.memmap):
        raise TypeError(
            f"{name}: expected a plain ndarray, got {type(array).__name__}, of which only the numbers would be seen; "
            "pass np.asarray(...) of it, of a masked one after filled(...)"
        )


# ---- one check a function; arrays are given by their shapes


def check_value(critic, obs, actions, aggregate: str = "mean") -> None:
    """The arguments of value and value_and_grad."""
    _check_states("obs", obs, "actions", actions)
    _check_critic("critic", critic, obs, actions)
    check_choice("aggregate", aggregate, AGGREGATES)


def check_flow(critic, obs, particles, config, trajectory=False) -> None:
    """The arguments of direction and flow."""
    _check_states("obs", obs, "particles", particles)
    _check_critic("critic", critic, obs, particles)
    _check_config(config, trajectory)


def check_sample(policy, obs, noise, num_steps) -> None:
    """The arguments of sample, but for clip."""
    _check_states("obs", obs, "noise", noise)
    _check_policy(policy, obs, noise)
    check_steps("num_steps", num_steps)


def check_select(q, how: str, aggregate: str, temperature, noise) -> None:
    """The arguments of select."""
    if len(q) not in (2, 3):
        raise ValueError(
            f"q: expected [B, N] or [E, B, N], got shape {_show(q)}; add the axis of states with q[None]"
        )
    if any(size < 1 for size in q):
        raise ValueError(f"q: expected at least one in every axis, got shape {_show(q)}; skip empty calls")
    _check_selection("how", how, aggregate, temperature, "noise", noise, q[-2:])


def check_floating(name: str, floats: bool, dtype: Any) -> None:
    """An array where no engine asks for a dtype."""
    if not floats:
        raise TypeError(f"{name}: expected floating point numbers, got {dtype}; cast them to float32")


def check_noise(**sizes) -> None:
    """The sizes of draw_noise."""
    for name, size in sizes.items():
        if not _is_count(size):
            raise ValueError(f"{name}: expected an integer >= 1, got {size!r}; noise is [B, N, A]")


def check_act(
    critic, policy, obs, noise, euler_steps, config, select: str, aggregate: str, temperature, select_noise
) -> None:
    """The arguments of act."""
    _check_states("obs", obs, "noise", noise)
    _check_critic("critic", critic, obs, noise)
    _check_policy(policy, obs, noise)
    check_steps("euler_steps", euler_steps)
    _check_config(config)
    _check_selection("select", select, aggregate, temperature, "select_noise", select_noise, noise[:2])


def check_td_target(
    critic,
    target_critic,
    policy,
    next_obs,
    noise,
    reward,
    mask,
    discount,
    euler_steps,
    config,
    aggregate: str,
    reduce: str,
) -> None:
    """The arguments of td_target."""
    _check_states("next_obs", next_obs, "noise", noise)
    _check_critic("critic", critic, next_obs, noise)
    _check_critic("target_critic", target_critic, next_obs, noise)
    _check_policy(policy, next_obs, noise)
    check_shape("reward", reward, next_obs[:1], "[B]")
    check_shape("mask", mask, next_obs[:1], "[B]")
    if not is_finite(discount) or abs(discount) > 1 / LEAST:
        remedy = "0.99 is usual"
        if is_array(discount):
            remedy = "pass one that is traced or differs by state as discount=1.0, mask=discount * mask"
        raise ValueError(f"discount: expected a finite number, got {discount!r}; {remedy}")
    check_steps("euler_steps", euler_steps)
    _check_config(config)
    check_choice("aggregate", aggregate, AGGREGATES)
    check_choice("reduce", reduce, REDUCES)


def check_transport(score_fn, particles, config, trajectory=False) -> None:
    """The arguments of transport."""
    if not callable(score_fn):
        raise TypeError(f"score_fn: expected a function of the particles, got {type(score_fn).__name__}")
    check_particles("particles", particles)
    _check_config(config, trajectory)


def check_score(score, particles) -> None:
    """What score_fn returned."""
    check_shape("score_fn", score, particles, "[B, N, A]")


# ---- their parts


def _check_states(obs_name: str, obs, actions_name: str, actions) -> None:
    if len(obs) != 2:
        raise ValueError(
            f"{obs_name}: expected rank 2, [B, O], got shape {_show(obs)}; "
            + (f"a single observation is {obs_name}[None]" if len(obs) == 1 else "reshape it")
        )
    check_particles(actions_name, actions)
    if obs[0] != actions[0]:
        raise ValueError(
            f"{obs_name} and {actions_name}: expected the same number of states B, "
            f"got {obs_name} {_show(obs)} and {actions_name} {_show(actions)}; "
            f"give one row of {obs_name} for every state of {actions_name}"
        )


def check_particles(name: str, particles) -> None:
    """Raise ValueError unless the shape is [B, N, A] of at least one each."""
    if len(particles) != 3:
        raise ValueError(
            f"{name}: expected rank 3, [B, N, A], got shape {_show(particles)}; "
            + (f"{name}[:, None, :] is one particle a state" if len(particles) == 2 else "reshape it")
        )
    for letter, size in zip("BNA", particles):
        if size < 1:
            raise ValueError(
                f"{name}: expected at least one in every axis of [B, N, A], got {letter}=0; skip empty calls"
            )


def check_shape(name: str, got, wanted, letters: str) -> None:
    """Raise ValueError unless the two shapes are the same."""
    if len(got) != len(wanted) or any(g != w for g, w in zip(got, wanted)):
        raise ValueError(
            f"{name}: expected shape {letters} = {_show(wanted)}, got {_show(got)}; reshape it, "
            "broadcasting is not done here"
        )


def _check_critic(name: str, critic, obs, actions) -> None:
    _check_mlp(name, critic)
    expected = obs[1] + actions[2]
    if critic.widths[0] != expected:
        raise ValueError(
            f"{name}: expected O + A = {obs[1]} + {actions[2]} = {expected} inputs, "
            f"got widths {critic.widths}; a critic reads concat(obs, action)"
        )
    if critic.widths[-1] != 1:
        raise ValueError(
            f"{name}: expected one output, got widths {critic.widths}; a critic gives one value a row"
        )


def _check_policy(policy, obs, noise) -> None:
    _check_mlp("policy", policy)
    expected = obs[1] + noise[2] + 1
    if policy.widths[0] != expected:
        raise ValueError(
            f"policy: expected O + A + 1 = {obs[1]} + {noise[2]} + 1 = {expected} inputs, "
            f"got widths {policy.widths}; a velocity field reads concat(obs, x, t)"
        )
    if policy.widths[-1] != noise[2]:
        raise ValueError(
            f"policy: expected A = {noise[2]} outputs, got widths {policy.widths}; "
            "a velocity field gives one velocity for every action dimension"
        )
    if policy.ensemble != 1:
        raise ValueError(
            f"policy: expected one member, got an ensemble of {policy.ensemble}; pass one velocity field"
        )


def _check_config(config, trajectory=False) -> None:
    if not isinstance(config, FlowConfig):
        raise TypeError(
            f"config: expected a FlowConfig, got {type(config).__name__}; use FlowConfig(num_steps=..., ...)"
        )
    if not isinstance(trajectory, bool):
        raise TypeError(
            f"trajectory: expected True or False, got {trajectory!r}; num_steps is a field of config"
        )


def check_steps(name: str, steps) -> None:
    """Raise ValueError unless `steps` is a number of Euler steps."""
    if not _is_count(steps):
        remedy = f"use int({name})" if is_array(steps) else "the velocity field takes a whole number of steps, one or more"
        raise ValueError(f"{name}: expected an integer >= 1, got {steps!r}; {remedy}")
    check_limit(name, steps)


def _is_count(number) -> bool:
    whole = isinstance(number, int) or (hasattr(type(number), "__index__") and not is_array(number))
    return whole and not isinstance(number, bool) and number >= 1


def _check_selection(name: str, how: str, aggregate: str, temperature, noise_name: str, noise, shape) -> None:
    check_choice(name, how, SELECTS)
    check_choice("aggregate", aggregate, AGGREGATES)
    check_positive("temperature", temperature, remedy="; 1.0 is the default")
    if noise is not None:
        check_shape(noise_name, noise, shape, "[B, N]")
    elif how != "max":
        raise ValueError(
            f"{noise_name}: expected an array [B, N] uniform in (0, 1) for {name}={how!r}, got None; "
            f'draw one or pass {name}="max"'
        )


def _check_mlp(name: str, network) -> None:
    if not isinstance(network, Described):
        raise TypeError(
            f"{name}: expected an MLP, got {type(network).__name__}; make one with MLP.from_torch(module), from_flax(params) "
            "or from_layers(arrays)"
        )
    network.check_shapes()


def check_concrete(network) -> None:
    """A network of a frontend whose weights are never traced."""
    if isinstance(network, Described) and not isinstance(network, MLP):
        raise TypeError(
            f"expected an MLP, got a {type(network).__name__} of vgf_kernels.jax, whose weights may be traced; make one with "
            "MLP.from_flax(params)"
        )


def check_weights(members, engine: str, dtypes) -> None:
    """The weights of an MLP, for an engine on the CPU that computes `dtypes`."""
    for e, member in enumerate(members):
        for i, layer in enumerate(member):
            for name, array in zip(layer._fields, layer):
                if array is None:
                    continue
                device, dtype = str(getattr(array, "device", "cpu")), str(array.dtype).removeprefix("torch.")
                where = f"weights: member {e}, layer {i}, {name}"
                if device != "cpu":
                    raise ValueError(
                        f"{where}: expected the CPU for CPU arrays, got {device}; move the module with .cpu()"
                    )
                check_weight(where, dtype, engine, dtypes)


def check_weight(where: str, dtype: str, engine: str, dtypes) -> None:
    """The dtype of one weight, for an engine that computes `dtypes`."""
    if dtype not in dtypes:
        remedy = ' or pass backend="reference"' if dtype in REFERENCE_DTYPES else ""
        raise TypeError(
            f"{where}: the {engine} engine computes {' or '.join(dtypes)}, got {dtype}; cast the weights to float32{remedy}"
        )


def check_weight_on_gpu(where: str, array: Any, engine: str, device: Any) -> None:
    """One weight, for an engine on a GPU: a tensor there, or a snapshot's NumPy array, which has no device."""
    dtype = str(array.dtype).removeprefix("torch.")
    if dtype != "float32":
        raise TypeError(f"{where}: the {engine} engine computes float32, got {dtype}; cast the weights to float32")
    if not isinstance(array, np.ndarray) and array.device != device:
        raise ValueError(
            f"{where}: expected the device of the arrays, {device}, got {array.device}; "
            f"move the module with .to({str(device)!r})"
        )


def _show(shape) -> str:
    return str([int(size) for size in shape])
