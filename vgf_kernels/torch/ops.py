"""The torch.library operators "vgf::...", by which compiled graphs and autograd reach the engines.

A graph holds numbers, strings and tensors, so an MLP travels as its parameters (`tensors()`), handle and description;
the parameters make the order of reads and writes visible to the compiler, and the description serves a process to which
the graph was exported. A FlowConfig travels as its fields, its floats as the integers of their bits: a compiled graph
takes another integer as it comes, where Inductor compiles anew for another float. A FlowConfig made inside of the graph
has no such integers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import checks, engines
from .. import config as flow_config
from ..config import FlowConfig, from_bits
from ..mlp import MLP
from . import arrays
from .untraced import untraced

LIBRARY = torch.library.Library("vgf", "DEF")
flow_config.in_a_graph = torch.compiler.is_compiling

CONFIG = (
    "SymInt num_steps, Scalar learning_rate, Scalar alpha, str config_aggregate, str? kernel, "
    "str? bandwidth_rule, Scalar bandwidth, bool bandwidth_grad, str optimizer, float[]? clip"
)
ENGINE = "str backend, str? precision"


def _define(name: str, arguments: str, returns: str, fake: Callable, *tags: torch.Tag) -> Callable[[Callable], Any]:
    """Register the decorated function as the operator vgf::name on every device, and return the operator."""

    def decorate(run: Callable) -> Any:
        LIBRARY.define(f"{name}({arguments}) -> {returns}", tags=(torch.Tag.pt2_compliant_tag, *tags))
        LIBRARY.impl(name, untraced(run), "CompositeExplicitAutograd")
        torch.library.register_fake(f"vgf::{name}", fake, lib=LIBRARY)
        return getattr(torch.ops.vgf, name).default

    return decorate


def pack_config(config: FlowConfig) -> tuple:
    """A FlowConfig as the arguments of CONFIG."""
    median = isinstance(config.bandwidth, str)
    sigma = 0.0 if median else config.bandwidth
    learning_rate, alpha, sigma = config.bits or (config.learning_rate, config.alpha, sigma)
    return (
        config.num_steps, learning_rate, alpha, config.aggregate, config.kernel,
        config.bandwidth if median else None, sigma,
        config.bandwidth_grad, config.optimizer, None if config.clip is None else list(config.clip),
    )  # fmt: skip


def _network(role: str) -> str:
    """An MLP among an operator's arguments."""
    return f"Tensor[] {role}_weights, SymInt {role}, str {role}_description"


CRITIC, POLICY = _network("critic"), _network("policy")


def pack_mlp(mlp: MLP) -> tuple[list[Tensor], int, str]:
    """An MLP as the arguments of _network. The weights are constants to autograd."""
    checks.check_concrete(mlp)
    exported = _leaves_the_process()
    # What is drawn for a frozen one would keep what another process has compiled out of Inductor's cache.
    description = "" if mlp.frozen and not exported else mlp.description
    return [tensor.detach() for tensor in mlp.tensors()], -mlp.handle if exported else mlp.handle, description


def _leaves_the_process() -> bool:
    """Whether what reads this call may run elsewhere: torch.export, torch.jit.trace or make_fx."""
    if torch.compiler.is_dynamo_compiling():
        return _is_exporting()
    return _is_exporting() or torch.jit.is_tracing() or modes() > 0


def modes() -> int:
    """How many dispatch modes are on: make_fx is one, fake tensors are."""
    return torch._C._len_torch_dispatch_stack() + torch._ops._len_torch_dispatch_stack_pre_dispatch()


_is_exporting = getattr(torch.compiler, "is_exporting", lambda: False)  # torch 2.7 and newer


def _config(
    num_steps, learning_rate, alpha, aggregate, kernel, rule, bandwidth, bandwidth_grad, optimizer, clip
):
    clip = None if clip is None else tuple(clip)
    learning_rate, alpha, sigma = (
        from_bits(number) if isinstance(number, int) else number for number in (learning_rate, alpha, bandwidth)
    )
    return _config_of(
        num_steps, learning_rate, alpha, aggregate, kernel, rule or sigma, bandwidth_grad, optimizer, clip
    )


_config_of = functools.lru_cache(maxsize=256)(FlowConfig)


def _call(function: str, like: Tensor, engine: tuple, *args: Any) -> Any:
    return engines.call(arrays, function, like, *engine, *args)


def _like(tensor: Tensor, *shape: int) -> Tensor:
    return tensor.new_empty(shape)


# ---- the operators, each after what it returns to a tracer
#
# They check what the public functions have checked: a graph, traced or exported, may be called with other arrays.


def _value_fake(weights, handle, description, ensemble, obs, actions, *engine):
    return _like(actions, ensemble, *actions.shape[:2])


@_define(
    "value",
    f"{CRITIC}, SymInt ensemble, Tensor obs, Tensor actions, {ENGINE}",
    "Tensor",
    _value_fake,
)
def value(weights, handle, description, ensemble, obs, actions, *engine):
    mlp = MLP.from_graph(weights, handle, description)
    arrays.check(obs=obs, actions=actions)
    checks.check_value(mlp, obs.shape, actions.shape)
    return _call("value", actions, engine, mlp, obs, actions)


def _value_context(ctx, inputs, output) -> None:
    weights, *network, obs, actions = inputs[:6]
    ctx.save_for_backward(obs, actions, *weights)
    ctx.network, ctx.engine = network, inputs[-2:]
    if isinstance(output, tuple):
        ctx.mark_non_differentiable(output[1])


def _value_backward(ctx, grad_q, *dq):
    """Of a graph that was traced where nobody wanted a gradient."""
    obs, actions, *weights = ctx.saved_tensors
    each_dq = jacobian(weights, *ctx.network, obs, actions.detach(), *ctx.engine)[1]
    rest = [None] * (len(dq) + 2)
    return [None] * len(weights), None, None, None, None, _pull_back(grad_q, each_dq, actions), *rest


def _pull_back(grad_q: Tensor, each_dq: Tensor, actions: Tensor) -> Tensor:
    """The gradient at the actions, from that at every member's q. [B, N, A]."""
    if torch.is_grad_enabled():  # create_graph=True
        each_dq = first_order(each_dq, actions)
    return (grad_q[..., None] * each_dq).sum(0)


torch.library.register_autograd("vgf::value", _value_backward, setup_context=_value_context, lib=LIBRARY)


def _value_and_grad_fake(weights, handle, description, ensemble, obs, actions, *rest):
    return _like(actions, ensemble, *actions.shape[:2]), _like(actions, *actions.shape)


@_define(
    "value_and_grad",
    f"{CRITIC}, SymInt ensemble, Tensor obs, Tensor actions, str aggregate, {ENGINE}",
    "(Tensor, Tensor)",
    _value_and_grad_fake,
)
def value_and_grad(weights, handle, description, ensemble, obs, actions, aggregate, *engine):
    mlp = MLP.from_graph(weights, handle, description)
    arrays.check(obs=obs, actions=actions)
    checks.check_value(mlp, obs.shape, actions.shape, aggregate)
    return _call("value_and_grad", actions, engine, mlp, obs, actions, aggregate)


torch.library.register_autograd("vgf::value_and_grad", _value_backward, setup_context=_value_context, lib=LIBRARY)


def _jacobian_fake(weights, handle, description, ensemble, obs, actions, *engine):
    return _like(actions, ensemble, *actions.shape[:2]), _like(actions, ensemble, *actions.shape)


@_define(
    "jacobian",
    f"{CRITIC}, SymInt ensemble, Tensor obs, Tensor actions, {ENGINE}",
    "(Tensor, Tensor)",
    _jacobian_fake,
)
def jacobian(weights, handle, description, ensemble, obs, actions, *engine):
    mlp = MLP.from_graph(weights, handle, description)
    arrays.check(obs=obs, actions=actions)
    checks.check_value(mlp, obs.shape, actions.shape)
    return _call("jacobian", actions, engine, mlp, obs, actions)


def _jacobian_context(ctx, inputs, output) -> None:
    ctx.weights = len(inputs[0])
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1], inputs[5])


def _jacobian_backward(ctx, grad_q, _):
    each_dq, actions = ctx.saved_tensors
    return [None] * ctx.weights, None, None, None, None, _pull_back(grad_q, each_dq, actions), None, None


torch.library.register_autograd(
    "vgf::jacobian", _jacobian_backward, setup_context=_jacobian_context, lib=LIBRARY
)


@_define("first_order", "Tensor dq, Tensor actions", "Tensor", lambda dq, actions: _like(dq, *dq.shape))
def first_order(dq, actions):
    """A copy of a gradient dq that to autograd depends on the actions, and refuses to be differentiated."""
    return dq.clone(memory_format=torch.contiguous_format)


# It looks at a value, which no CUDA graph can; newer versions of torch leave such an operator out of theirs.
OUT_OF_GRAPHS = [tag for tag in (getattr(torch.Tag, "cudagraph_unsafe", None),) if tag is not None]


@_define("refuse_second_order", "Tensor grad", "Tensor", lambda grad: _like(grad), *OUT_OF_GRAPHS)
def refuse_second_order(grad):
    """0, the second-order part of a gradient whose upstream `grad` is zero. Anything else cannot be computed.

    A compiled backward pass runs for every output, also for those that nothing depends on; hence a check of
    values at run time.
    """
    if grad.any():
        raise NotImplementedError(
            "the gradient of a value cannot itself be differentiated: expected first-order differentiation "
            "with respect to the actions, got second order, which is not supported; "
            "detach dq, or use plain torch"
        )
    return grad.new_zeros(())


def _first_order_context(ctx, inputs, output) -> None:
    ctx.shape = inputs[1].shape


def _first_order_backward(ctx, grad):
    return None, refuse_second_order(grad.detach()).expand(ctx.shape)


torch.library.register_autograd(
    "vgf::first_order", _first_order_backward, setup_context=_first_order_context, lib=LIBRARY
)


def _direction_fake(weights, handle, description, obs, particles, *rest):
    return _like(particles, *particles.shape)


@_define(
    "direction",
    f"{CRITIC}, Tensor obs, Tensor particles, {CONFIG}, {ENGINE}",
    "Tensor",
    _direction_fake,
)
def direction(weights, handle, description, obs, particles, *rest):
    *config, backend, precision = rest
    mlp, settings = MLP.from_graph(weights, handle, description), _config(*config)
    arrays.check(obs=obs, particles=particles)
    checks.check_flow(mlp, obs.shape, particles.shape, settings)
    return _call("direction", particles, (backend, precision), mlp, obs, particles, settings)


def _flow_fake(weights, handle, description, obs, particles, trajectory, num_steps, *rest):
    return _like(particles, *((num_steps + 1,) if trajectory else ()), *particles.shape)


@_define(
    "flow",
    f"{CRITIC}, Tensor obs, Tensor particles, bool trajectory, {CONFIG}, {ENGINE}",
    "Tensor",
    _flow_fake,
)
def flow(weights, handle, description, obs, particles, trajectory, *rest):
    *config, backend, precision = rest
    mlp, settings = MLP.from_graph(weights, handle, description), _config(*config)
    arrays.check(obs=obs, particles=particles)
    checks.check_flow(mlp, obs.shape, particles.shape, settings, trajectory)
    return _call("flow", particles, (backend, precision), mlp, obs, particles, settings, trajectory)


def _sample_fake(weights, handle, description, obs, noise, *rest):
    return _like(noise, *noise.shape)


@_define(
    "sample",
    f"{POLICY}, Tensor obs, Tensor noise, SymInt num_steps, float[]? clip, {ENGINE}",
    "Tensor",
    _sample_fake,
)
def sample(weights, handle, description, obs, noise, num_steps, clip, *engine):
    mlp, clip = MLP.from_graph(weights, handle, description), None if clip is None else tuple(clip)
    arrays.check(obs=obs, noise=noise)
    checks.check_sample(mlp, obs.shape, noise.shape, num_steps)
    return _call("sample", noise, engine, mlp, obs, noise, num_steps, clip)


def _act_fake(*arguments):
    _, noise, *_ = arguments[6:]
    return _like(noise, noise.shape[0], noise.shape[2])


@_define(
    "act",
    f"{CRITIC}, {POLICY}, Tensor obs, Tensor noise, "
    "SymInt euler_steps, str select, str aggregate, float temperature, Tensor? select_noise, "
    f"{CONFIG}, {ENGINE}",
    "Tensor",
    _act_fake,
)
def act(*arguments):
    critic, policy = (MLP.from_graph(*arguments[i : i + 3]) for i in (0, 3))
    obs, noise, euler_steps, select, aggregate, temperature, select_noise, *rest = arguments[6:]
    *config, backend, precision = rest
    arrays.check(obs=obs, noise=noise)
    if select_noise is not None:
        arrays.check(obs=obs, select_noise=select_noise)
    selection = _config(*config), select, aggregate, temperature
    checks.check_act(critic, policy, obs.shape, noise.shape, euler_steps, *selection, arrays.shape(select_noise))
    return _call(
        "act", noise, (backend, precision), critic, policy, obs, noise, euler_steps, *selection, select_noise
    )


def _td_target_fake(*arguments):
    _, noise, *_ = arguments[9:]
    return _like(noise, noise.shape[0])


@_define(
    "td_target",
    f"{CRITIC}, {_network('target')}, {POLICY}, "
    "Tensor next_obs, Tensor noise, Tensor reward, Tensor mask, "
    f"float discount, SymInt euler_steps, str aggregate, str reduce, {CONFIG}, {ENGINE}",
    "Tensor",
    _td_target_fake,
)
def td_target(*arguments):
    networks = [MLP.from_graph(*arguments[i : i + 3]) for i in (0, 3, 6)]
    next_obs, noise, reward, mask, discount, euler_steps, aggregate, reduce, *rest = arguments[9:]
    *config, backend, precision = rest
    arrays.check(next_obs=next_obs, noise=noise, reward=reward, mask=mask)
    tensors = next_obs, noise, reward, mask
    settings = discount, euler_steps, _config(*config), aggregate, reduce
    checks.check_td_target(*networks, *(tensor.shape for tensor in tensors), *settings)
    return _call("td_target", noise, (backend, precision), *networks, *tensors, *settings)


def _update_fake(particles, dq, first_moment, second_moment, *rest):
    return _like(particles, *particles.shape)


@_define(
    "update",
    "Tensor particles, Tensor dq, Tensor(a!) first_moment, Tensor(b!) second_moment, SymInt step, "
    f"{CONFIG}, {ENGINE}",
    "Tensor",
    _update_fake,
)
def update(particles, dq, first_moment, second_moment, step, *rest):
    *config, backend, precision = rest
    moments = (first_moment, second_moment)
    arrays.check(particles=particles, dq=dq)
    checks.check_particles("particles", particles.shape)
    checks.check_shape("dq", dq.shape, particles.shape, "[B, N, A]")
    for moment in moments:
        _check_moment(moment, particles)
    return _call("update", particles, (backend, precision), particles, dq, *moments, step, _config(*config))


def _check_moment(moment: Tensor, particles: Tensor) -> None:
    """It is updated in place, so the engine takes no copy of it."""
    checks.check_shape("moment", moment.shape, particles.shape, "[B, N, A]")
    wanted = torch.promote_types(particles.dtype, torch.float32), particles.device, True
    got = moment.dtype, moment.device, moment.is_contiguous()
    if got != wanted:
        dtype, device, _ = wanted
        raise TypeError(
            f"moment: expected a contiguous tensor of {dtype} on {device}, since it is updated in place, got one of "
            f"{moment.dtype} on {moment.device} with strides {moment.stride()}; make it with torch.zeros"
        )
