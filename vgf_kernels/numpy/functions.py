"""The public functions on NumPy arrays: check, then call an engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import checks, engines, ranges, reference
from ..config import FlowConfig
from ..docs import documented
from ..mlp import MLP
from ..settings import check_clip
from . import arrays


@documented()
def value(
    critic: MLP, obs: np.ndarray, actions: np.ndarray, *, backend: str = "auto", precision: str | None = None
) -> np.ndarray:
    _check_arrays(obs=obs, actions=actions)
    checks.check_value(critic, obs.shape, actions.shape)
    return _call("value", actions, backend, precision, critic, obs, actions)


@documented()
def value_and_grad(
    critic: MLP,
    obs: np.ndarray,
    actions: np.ndarray,
    aggregate: str = "mean",
    *,
    backend: str = "auto",
    precision: str | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    _check_arrays(obs=obs, actions=actions)
    checks.check_value(critic, obs.shape, actions.shape, aggregate)
    return _call("value_and_grad", actions, backend, precision, critic, obs, actions, aggregate)


@documented()
def direction(
    critic: MLP,
    obs: np.ndarray,
    particles: np.ndarray,
    config: FlowConfig,
    *,
    backend: str = "auto",
    precision: str | None = None,
) -> np.ndarray:
    _check_arrays(obs=obs, particles=particles)
    checks.check_flow(critic, obs.shape, particles.shape, config)
    return _call("direction", particles, backend, precision, critic, obs, particles, config)


@documented()
def flow(
    critic: MLP,
    obs: np.ndarray,
    particles: np.ndarray,
    config: FlowConfig,
    trajectory: bool = False,
    *,
    backend: str = "auto",
    precision: str | None = None,
) -> np.ndarray:
    _check_arrays(obs=obs, particles=particles)
    checks.check_flow(critic, obs.shape, particles.shape, config, trajectory)
    return _call("flow", particles, backend, precision, critic, obs, particles, config, trajectory)


@documented()
def sample(
    policy: MLP,
    obs: np.ndarray,
    noise: np.ndarray,
    num_steps: int,
    clip: tuple[float, float] | None = (-1.0, 1.0),
    *,
    backend: str = "auto",
    precision: str | None = None,
) -> np.ndarray:
    _check_arrays(obs=obs, noise=noise)
    checks.check_sample(policy, obs.shape, noise.shape, num_steps)
    return _call("sample", noise, backend, precision, policy, obs, noise, num_steps, check_clip(clip))


@documented("The selection is a few NumPy operations, the same whatever the backend.")
def select(
    q: np.ndarray,
    how: str = "max",
    *,
    aggregate: str = "mean",
    temperature: float = 1.0,
    noise: np.ndarray | None = None,
    backend: str = "auto",
    precision: str | None = None,
) -> np.ndarray:
    _check_arrays(q=q)
    if noise is not None:
        _check_arrays(q=q, noise=noise)
    checks.check_engine(backend, precision)
    engines.check_available(engines.requested(backend))
    checks.check_select(q.shape, how, aggregate, temperature, _shape(noise))
    checks.check_floating("q", np.issubdtype(q.dtype, np.floating), q.dtype)
    with ranges.span("select", q.shape[-2] * q.shape[-1]):
        return reference.select(q, how, aggregate=aggregate, temperature=temperature, noise=noise)


@documented()
def act(
    critic: MLP,
    policy: MLP,
    obs: np.ndarray,
    noise: np.ndarray,
    euler_steps: int,
    config: FlowConfig,
    select: str = "max",
    aggregate: str = "mean",
    *,
    temperature: float = 1.0,
    select_noise: np.ndarray | None = None,
    backend: str = "auto",
    precision: str | None = None,
) -> np.ndarray:
    _check_arrays(obs=obs, noise=noise)
    if select_noise is not None:
        _check_arrays(obs=obs, select_noise=select_noise)
    checks.check_act(
        critic,
        policy,
        obs.shape,
        noise.shape,
        euler_steps,
        config,
        select,
        aggregate,
        temperature,
        _shape(select_noise),
    )
    return _call(
        "act", noise, backend, precision,
        critic, policy, obs, noise, euler_steps, config, select, aggregate, temperature, select_noise,
    )  # fmt: skip


@documented()
def td_target(
    critic: MLP,
    target_critic: MLP,
    policy: MLP,
    next_obs: np.ndarray,
    noise: np.ndarray,
    reward: np.ndarray,
    mask: np.ndarray,
    discount: float,
    euler_steps: int,
    config: FlowConfig,
    aggregate: str = "mean",
    reduce: str = "mean",
    *,
    backend: str = "auto",
    precision: str | None = None,
) -> np.ndarray:
    _check_arrays(next_obs=next_obs, noise=noise, reward=reward, mask=mask)
    checks.check_td_target(
        critic, target_critic, policy, next_obs.shape, noise.shape, reward.shape, mask.shape,
        discount, euler_steps, config, aggregate, reduce,
    )  # fmt: skip
    return _call(
        "td_target", noise, backend, precision,
        critic, target_critic, policy, next_obs, noise, reward, mask,
        discount, euler_steps, config, aggregate, reduce,
    )  # fmt: skip


@documented()
def transport(
    score_fn: Callable[[np.ndarray], np.ndarray],
    particles: np.ndarray,
    config: FlowConfig,
    trajectory: bool = False,
    *,
    backend: str = "auto",
    precision: str | None = None,
) -> np.ndarray:
    _check_arrays(particles=particles)
    checks.check_transport(score_fn, particles.shape, config, trajectory)
    engines.resolve(backend, arrays.device(particles), arrays.dtype(particles), precision)  # of no steps, too
    first, second = (np.zeros(particles.shape, reference.moment_dtype(particles.dtype)) for _ in range(2))
    x = particles.copy()
    path = [x]
    with ranges.span("transport", x.shape[0] * x.shape[1]):
        for step in range(1, config.num_steps + 1):
            score = score_fn(x.copy())  # which it may write to
            _check_arrays(**{"particles": particles, "the result of score_fn": score})
            checks.check_score(score.shape, particles.shape)
            x = _call("update", particles, backend, precision, x, score, first, second, step, config)
            if trajectory:
                path.append(x)
    return np.stack(path) if trajectory else x


def draw_noise(rng: np.random.Generator, B: int, N: int, A: int) -> np.ndarray:
    """Standard normal noise [B, N, A], float32, for `sample`, `act` and `td_target`."""
    if not isinstance(rng, np.random.Generator):
        raise TypeError(f"rng: expected a numpy.random.Generator, got {type(rng).__name__}; use np.random.default_rng(0)")
    checks.check_noise(B=B, N=N, A=A)
    return rng.standard_normal((B, N, A), dtype=np.float32)


def _check_arrays(**named: Any) -> None:
    checks.check_arrays(np.ndarray, "use np.asarray(..., np.float32)", **named)
    for name, array in named.items():
        checks.check_plain(name, array)


def _shape(array: np.ndarray | None):
    return None if array is None else array.shape


def _call(function: str, like: np.ndarray, backend: str, precision: str | None, *args: Any) -> Any:
    return engines.call(arrays, function, like, backend, precision, *args)
