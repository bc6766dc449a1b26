"""The reference on jax arrays: a callback to NumPy in the midst of the computation. Slow, and on the host."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from .. import checks
from ..config import FlowConfig
from ..mlp import MLP
from ..numpy import arrays
from ..reference.engine import Engine as Reference
from .networks import Network, Packed, check_dtypes, with_time
from .primitive import refuse_derivative, varying_as


@dataclass(frozen=True)
class Engine:
    """The methods of vgf_kernels.jax.fused.Engine by the definition, in the arrays' own dtype."""

    precision: str | None

    def check(self, networks) -> None:
        """Raise ValueError where weights are packed, and TypeError where NumPy does not compute with them."""
        if any(isinstance(network, Packed) for network in networks):
            raise ValueError(
                "packed weights are a compiled engine's, but the reference engine was asked for; pass what `network` "
                "returned"
            )
        for network in networks:
            check_dtypes(network, "reference", checks.REFERENCE_DTYPES)

    def pack(self, network, gradient, role, observations):
        raise ValueError("pack: the reference engine packs no weights; pass it the network itself")

    def prepare(self, score, observations, particles):
        return with_time(score)

    def value(self, critic, obs, actions):
        q = (critic.ensemble, *actions.shape[:2])
        return self._call("value", [q], actions, critic, obs, actions)[0]

    def value_and_grad(self, critic, obs, actions, aggregate):
        q = (critic.ensemble, *actions.shape[:2])
        return self._call("value_and_grad", [q, actions.shape], actions, critic, obs, actions, aggregate)

    def jacobian(self, critic, obs, actions):
        """q [E, B, N] and the gradient of every critic, [E, B, N, A]."""
        q = (critic.ensemble, *actions.shape[:2])
        return self._call("jacobian", [q, (*q, actions.shape[2])], actions, critic, obs, actions)

    def direction(self, critic, obs, particles, config):
        return self._call("direction", [particles.shape], particles, critic, obs, particles, config)[0]

    def flow(self, critic, obs, particles, config, num_steps, trajectory):
        shape = (*((config.num_steps + 1,) if trajectory else ()), *particles.shape)
        args = (critic, obs, particles, config, trajectory)
        return self._call("flow", [shape], particles, *args, num_steps=num_steps)[0]

    def sample(self, policy, obs, noise, num_steps, clip):
        return self._call("sample", [noise.shape], noise, policy, obs, noise, num_steps, clip)[0]

    def act(
        self, critic, policy, obs, noise, euler_steps, config, num_steps, select, aggregate, temperature,
        select_noise,
    ):  # fmt: skip
        return self._call(
            "act", [(noise.shape[0], noise.shape[2])], noise, critic, policy, obs, noise, euler_steps, config,
            select, aggregate, temperature, select_noise, num_steps=num_steps,
        )[0]  # fmt: skip

    def td_target(
        self, critic, target_critic, policy, next_obs, noise, reward, mask, discount, euler_steps, config,
        num_steps, aggregate, reduce,
    ):  # fmt: skip
        return self._call(
            "td_target", [noise.shape[:1]], noise, critic, target_critic, policy, next_obs, noise, reward, mask,
            discount, euler_steps, config, aggregate, reduce, num_steps=num_steps,
        )[0]  # fmt: skip

    def update(self, particles, dq, first_moment, second_moment, step, config):
        """One step of transport, numbered from 1: the particles and both moments after it."""
        step = jax.numpy.asarray(step)  # a number among the settings would be compiled with them
        moved = tuple(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in (particles, first_moment, second_moment))
        return self._run("update", moved, particles, dq, first_moment, second_moment, step, config)

    def _call(self, function: str, shapes: list, like, *args: Any, num_steps: Any = None) -> tuple:
        results = tuple(jax.ShapeDtypeStruct(shape, like.dtype) for shape in shapes)
        return self._run(function, results, *args, num_steps=num_steps)

    def _run(self, function: str, results: tuple, *args: Any, num_steps: Any = None) -> tuple:
        """`num_steps`, where it is given, takes the place of that of the FlowConfig among `args`."""
        traced = {i: a for i, a in enumerate(args) if isinstance(a, (Network, jax.Array, np.ndarray))}
        settings = tuple((i, a) for i, a in enumerate(args) if i not in traced)
        run = _OnHost(function, self.precision, settings)
        return tuple(varying_as(jax.tree.leaves((traced, num_steps)), _callback(run, results, traced, num_steps)))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _callback(run: _OnHost, results: tuple, traced: dict[int, Any], num_steps: Any) -> tuple:
    return jax.pure_callback(run, results, traced, num_steps, vmap_method="sequential")


_callback.defjvp(refuse_derivative)

EULER_STEPS = {"sample": ("num_steps", 3), "act": ("euler_steps", 4), "td_target": ("euler_steps", 8)}  # name and place


@dataclass(frozen=True)
class _OnHost:
    """A function of the definition. Equal ones are the same to JAX, which compiles every other callback anew.

    Attributes:
        settings: by their places among the arguments, those that are no arrays.
    """

    function: str
    precision: str | None
    settings: tuple[tuple[int, Any], ...]

    def __call__(self, traced: dict[int, Any], num_steps: Any) -> tuple:
        engine = Reference(arrays, self.precision)
        placed = dict(self.settings) | {i: _on_host(a) for i, a in traced.items()}
        given = [placed[i] for i in range(len(placed))]
        if self.function in EULER_STEPS:
            name, place = EULER_STEPS[self.function]
            checks.check_steps(name, given[place])
        if num_steps is not None:
            given = [
                dataclasses.replace(a, num_steps=int(num_steps)) if isinstance(a, FlowConfig) else a for a in given
            ]
        if self.function == "update":
            moments = [np.array(a) for a in given[2:4]]
            return (engine.update(*given[:2], *moments, *given[4:]), *moments)
        got = getattr(engine, self.function)(*given)
        return got if isinstance(got, tuple) else (got,)


def _on_host(argument: Any) -> Any:
    """What the definition takes: an MLP, an array or a number."""
    if isinstance(argument, Network):
        layers = jax.tree.map(np.asarray, argument.layers)
        members = [
            [{k: a[e] for k, a in layer._asdict().items() if a is not None} for layer in layers]
            for e in range(len(layers[0].W))
        ]
        return MLP.from_layers(
            members, activation=argument.activation, norm=argument.norm, norm_eps=argument.norm_eps
        )
    array = np.asarray(argument)
    return array if array.ndim else array.item()
