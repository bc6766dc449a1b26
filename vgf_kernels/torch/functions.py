"""The public functions on torch tensors: check, then call an engine.

The call goes straight to the engine, or through an operator where a compiler or autograd must see it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .. import checks, engines, ranges
from ..config import FlowConfig
from ..docs import documented
from ..mlp import MLP
from ..settings import check_clip
from . import arrays, ops

DIFFERENTIABLE = """Differentiable once with respect to the actions. The critic's parameters are constants: no
    gradient reaches them."""
CONSTANT = "The inputs are constants to autograd, and the result never requires grad."


@documented(DIFFERENTIABLE)
def value(
    critic: MLP, obs: Tensor, actions: Tensor, *, backend: str = "auto", precision: str | None = None
) -> Tensor:
    arrays.check(obs=obs, actions=actions)
    checks.check_value(critic, obs.shape, actions.shape)
    checks.check_engine(backend, precision)
    if _differentiates(obs, actions):
        return _jacobian(critic, obs, actions, backend, precision)[0]
    if _traced(obs, actions):
        return ops.value(*ops.pack_mlp(critic), critic.ensemble, obs, actions, backend, precision)
    return _call("value", actions, backend, precision, critic, obs, actions)


@documented(DIFFERENTIABLE + " dq cannot be differentiated.")
def value_and_grad(
    critic: MLP,
    obs: Tensor,
    actions: Tensor,
    aggregate: str = "mean",
    *,
    backend: str = "auto",
    precision: str | None = None,
) -> tuple[Tensor, Tensor]:
    arrays.check(obs=obs, actions=actions)
    checks.check_value(critic, obs.shape, actions.shape, aggregate)
    checks.check_engine(backend, precision)
    if _differentiates(obs, actions):
        q, each_dq = _jacobian(critic, obs, actions, backend, precision)
        dq = (each_dq * _share(q.detach(), aggregate)[..., None]).sum(0)
        return q, ops.first_order(dq, actions)
    if _traced(obs, actions):
        return ops.value_and_grad(
            *ops.pack_mlp(critic), critic.ensemble, obs, actions, aggregate, backend, precision
        )
    return _call("value_and_grad", actions, backend, precision, critic, obs, actions, aggregate)


@documented(CONSTANT)
def direction(
    critic: MLP,
    obs: Tensor,
    particles: Tensor,
    config: FlowConfig,
    *,
    backend: str = "auto",
    precision: str | None = None,
) -> Tensor:
    arrays.check(obs=obs, particles=particles)
    checks.check_flow(critic, obs.shape, particles.shape, config)
    checks.check_engine(backend, precision)
    if _traced(obs, particles):
        obs, particles = obs.detach(), particles.detach()
        return ops.direction(
            *ops.pack_mlp(critic), obs, particles, *ops.pack_config(config), backend, precision
        )
    return _call("direction", particles, backend, precision, critic, obs, particles, config)


@documented(CONSTANT)
def flow(
    critic: MLP,
    obs: Tensor,
    particles: Tensor,
    config: FlowConfig,
    trajectory: bool = False,
    *,
    backend: str = "auto",
    precision: str | None = None,
) -> Tensor:
    arrays.check(obs=obs, particles=particles)
    checks.check_flow(critic, obs.shape, particles.shape, config, trajectory)
    checks.check_engine(backend, precision)
    if _traced(obs, particles):
        return ops.flow(
            *ops.pack_mlp(critic), obs.detach(), particles.detach(), trajectory,
            *ops.pack_config(config), backend, precision,
        )  # fmt: skip
    return _call("flow", particles, backend, precision, critic, obs, particles, config, trajectory)


@documented(CONSTANT)
def sample(
    policy: MLP,
    obs: Tensor,
    noise: Tensor,
    num_steps: int,
    clip: tuple[float, float] | None = (-1.0, 1.0),
    *,
    backend: str = "auto",
    precision: str | None = None,
) -> Tensor:
    arrays.check(obs=obs, noise=noise)
    checks.check_sample(policy, obs.shape, noise.shape, num_steps)
    checks.check_engine(backend, precision)
    clip = check_clip(clip)
    if _traced(obs, noise):
        return ops.sample(
            *ops.pack_mlp(policy), obs.detach(), noise.detach(), int(num_steps),
            None if clip is None else list(clip), backend, precision,
        )  # fmt: skip
    return _call("sample", noise, backend, precision, policy, obs, noise, num_steps, clip)


@documented("The selection is a few torch operations on the device of q, the same whatever the backend.")
def select(
    q: Tensor,
    how: str = "max",
    *,
    aggregate: str = "mean",
    temperature: float = 1.0,
    noise: Tensor | None = None,
    backend: str = "auto",
    precision: str | None = None,
) -> Tensor:
    arrays.check(q=q)
    if noise is not None:
        arrays.check(q=q, noise=noise)
    checks.check_engine(backend, precision)
    engines.check_available(engines.requested(backend))
    checks.check_select(q.shape, how, aggregate, temperature, arrays.shape(noise))
    checks.check_floating("q", q.is_floating_point(), q.dtype)
    if not torch.compiler.is_compiling():
        with ranges.span("select", q.shape[-2] * q.shape[-1]):
            return _select(q, how, aggregate, temperature, noise)
    return _select(q, how, aggregate, temperature, noise)


def _select(q: Tensor, how: str, aggregate: str, temperature: float, noise: Tensor | None) -> Tensor:
    if q.ndim == 3:
        q = q.amin(0) if aggregate == "min" else q.mean(0)
    if how == "max":
        return q.argmax(1)
    assert noise is not None  # checked by the caller
    return noise.argmax(1) if how == "uniform" else (q / temperature - (-noise.log()).log()).argmax(1)


@documented(CONSTANT)
def act(
    critic: MLP,
    policy: MLP,
    obs: Tensor,
    noise: Tensor,
    euler_steps: int,
    config: FlowConfig,
    select: str = "max",
    aggregate: str = "mean",
    *,
    temperature: float = 1.0,
    select_noise: Tensor | None = None,
    backend: str = "auto",
    precision: str | None = None,
) -> Tensor:
    arrays.check(obs=obs, noise=noise)
    if select_noise is not None:
        arrays.check(obs=obs, select_noise=select_noise)
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
        arrays.shape(select_noise),
    )
    checks.check_engine(backend, precision)
    if _traced(obs, noise, select_noise):
        return ops.act(
            *ops.pack_mlp(critic), *ops.pack_mlp(policy), obs.detach(), noise.detach(),
            int(euler_steps), select, aggregate, float(temperature),
            None if select_noise is None else select_noise.detach(),
            *ops.pack_config(config), backend, precision,
        )  # fmt: skip
    return _call(
        "act", noise, backend, precision,
        critic, policy, obs, noise, euler_steps, config, select, aggregate, temperature, select_noise,
    )  # fmt: skip


@documented(CONSTANT)
def td_target(
    critic: MLP,
    target_critic: MLP,
    policy: MLP,
    next_obs: Tensor,
    noise: Tensor,
    reward: Tensor,
    mask: Tensor,
    discount: float,
    euler_steps: int,
    config: FlowConfig,
    aggregate: str = "mean",
    reduce: str = "mean",
    *,
    backend: str = "auto",
    precision: str | None = None,
) -> Tensor:
    arrays.check(next_obs=next_obs, noise=noise, reward=reward, mask=mask)
    checks.check_td_target(
        critic, target_critic, policy, next_obs.shape, noise.shape, reward.shape, mask.shape,
        discount, euler_steps, config, aggregate, reduce,
    )  # fmt: skip
    checks.check_engine(backend, precision)
    if _traced(next_obs, noise, reward, mask):
        return ops.td_target(
            *ops.pack_mlp(critic), *ops.pack_mlp(target_critic), *ops.pack_mlp(policy),
            next_obs.detach(), noise.detach(), reward.detach(), mask.detach(),
            float(discount), int(euler_steps), aggregate, reduce, *ops.pack_config(config), backend, precision,
        )  # fmt: skip
    return _call(
        "td_target", noise, backend, precision,
        critic, target_critic, policy, next_obs, noise, reward, mask,
        discount, euler_steps, config, aggregate, reduce,
    )  # fmt: skip


@documented(CONSTANT + " A compiled graph holds the steps one after the other: another num_steps compiles another.")
def transport(
    score_fn: Callable[[Tensor], Tensor],
    particles: Tensor,
    config: FlowConfig,
    trajectory: bool = False,
    *,
    backend: str = "auto",
    precision: str | None = None,
) -> Tensor:
    arrays.check(particles=particles)
    checks.check_transport(score_fn, particles.shape, config, trajectory)
    checks.check_engine(backend, precision)
    traced = _traced(particles)
    if not traced:
        engines.resolve(backend, arrays.device(particles), arrays.dtype(particles), precision)  # of no steps, too
    dtype = torch.promote_types(particles.dtype, torch.float32)
    # like particles, not of their shape, which a tracer may take for a constant
    first, second = (
        torch.zeros_like(particles, dtype=dtype, memory_format=torch.contiguous_format).detach() for _ in range(2)
    )
    x = particles.detach().clone()
    path = [x]
    span = nullcontext() if traced else ranges.span("transport", x.shape[0] * x.shape[1])
    with span:
        for step in range(1, config.num_steps + 1):
            score = score_fn(x.detach().clone())  # which it may write to, and make a leaf of its own graph
            arrays.check(**{"particles": x, "the result of score_fn": score})
            checks.check_score(score.shape, x.shape)
            if traced:
                score = score.detach()
                x = ops.update(x, score, first, second, step, *ops.pack_config(config), backend, precision)
            else:
                x = _call("update", x, backend, precision, x, score, first, second, step, config)
            if trajectory:
                path.append(x)
    return torch.stack(path) if trajectory else x


def draw_noise(generator: torch.Generator, B: int, N: int, A: int) -> Tensor:
    """Standard normal noise [B, N, A], float32, for `sample`, `act` and `td_target`, on the generator's device."""
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"generator: expected a torch.Generator, got {type(generator).__name__}; make one for the device")
    checks.check_noise(B=B, N=N, A=A)
    return torch.randn((B, N, A), generator=generator, dtype=torch.float32, device=generator.device)


def _differentiates(obs: Tensor, actions: Tensor) -> bool:
    """Whether autograd wants a gradient with respect to the actions."""
    if torch.compiler.is_compiling():
        if torch._C._are_functorch_transforms_active():  # where requires_grad tells nothing
            raise RuntimeError(f"actions: expected a tensor, got one of a transform; {arrays.NO_TRANSFORMS}")
    elif forward_ad._current_level >= 0:
        for name, tensor in (("obs", obs), ("actions", actions)):
            if forward_ad.unpack_dual(tensor).tangent is not None:
                raise RuntimeError(f"{name}: expected a tensor, got a dual one of forward mode; {arrays.NO_TRANSFORMS}")
    if not torch.is_grad_enabled():
        return False
    if obs.requires_grad:
        raise ValueError(
            "obs: expected a tensor that does not require grad, since only actions get a gradient here; "
            "pass obs.detach(), or use plain torch for a gradient with respect to obs"
        )
    return actions.requires_grad


def _jacobian(critic: MLP, obs: Tensor, actions: Tensor, *engine: str | None) -> tuple[Tensor, Tensor]:
    """Every member's q and dq, as autograd sees them."""
    arguments = *ops.pack_mlp(critic), critic.ensemble, obs, actions, *engine
    if torch.compiler.is_compiling():
        return ops.jacobian(*arguments)
    try:
        return ops.jacobian(*arguments)
    except RuntimeError as error:
        if "functorch" not in str(error):
            raise
        raise RuntimeError(f"actions: expected a tensor, got one of a transform; {arrays.NO_TRANSFORMS}") from None


def _traced(*tensors: Tensor | None) -> bool:
    """Whether a compiler, a tracer, a dispatch mode (make_fx is one) or a tensor subclass (fake tensors among them) must
    see the call as an operator."""
    return (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or ops.modes() > 0
        or any(type(t) not in (Tensor, torch.nn.Parameter, type(None)) for t in tensors)
    )


def _share(q: Tensor, aggregate: str) -> Tensor:
    """The derivative of the aggregate with respect to each critic's q. [E, B, N]."""
    smallest = (q == q.amin(0)).to(q.dtype) if aggregate == "min" else torch.ones_like(q)
    return smallest / smallest.sum(0)


def _call(function: str, like: Tensor, backend: str, precision: str | None, *args: Any) -> Any:
    return engines.call(arrays, function, like, backend, precision, *args)
