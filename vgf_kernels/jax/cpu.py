"""The CPU engine on jax arrays: every method is one custom call on packed weights."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from ..numpy.arrays import threads
from .attributes import Clip, Config
from .networks import Network, Packed, check_float32, describe
from .primitive import STATES, Result, run
from .runtime import handlers


@dataclass(frozen=True)
class Engine:
    """The public functions on checked float32 arrays.

    Networks come as Network, whose weights are then packed in the same computation, or as Packed. Step counts
    are numbers or traced int32 scalars.

    Attributes:
        precision: "fp32" or "bf16"; None: as packed, else fp32.
    """

    precision: str | None

    def check(self, networks) -> None:
        """Raise RuntimeError where the engine cannot run, TypeError where weights are not float32."""
        handlers()
        for network in networks:
            if isinstance(network, Network):
                check_float32(network)

    def pack(self, network: Network, gradient: bool) -> Packed:
        what = describe(network, gradient, self.precision or "fp32")
        size = handlers().packed_bytes(what.widths, what.ensemble, gradient, what.precision)
        weights = [array for layer in network.layers for array in layer if array is not None]
        result = [Result((size,), np.uint8)]
        return Packed(run("pack", weights, (), (), result, network=what, threads=threads())[0], what)

    def prepare(self, network: Network, gradient: bool) -> Packed:
        """The network for several calls of one function."""
        return self.pack(network, gradient)

    def value(self, critic, obs, actions):
        critic = self._packed("critic", critic, False)
        q = Result((critic.ensemble, STATES, actions.shape[1]))
        return _run("value", [obs, actions], {"critic": critic}, [q])[0]

    def value_and_grad(self, critic, obs, actions, aggregate):
        critic = self._packed("critic", critic, True)
        q, dq = Result((critic.ensemble, STATES, actions.shape[1])), _like(actions)
        return tuple(_run("value_and_grad", [obs, actions], {"critic": critic}, [q, dq], aggregate=aggregate))

    def jacobian(self, critic, obs, actions):
        """q [E, B, N] and the gradient of every critic, [E, B, N, A]."""
        critic = self._packed("critic", critic, True)
        q = Result((critic.ensemble, STATES, actions.shape[1]))
        dq = Result((*q.shape, actions.shape[2]))
        return tuple(_run("jacobian", [obs, actions], {"critic": critic}, [q, dq]))

    def direction(self, critic, obs, particles, config):
        networks = {"critic": self._packed("critic", critic, True)}
        return _run("direction", [obs, particles], networks, [_like(particles)], config=Config.of(config))[0]

    def flow(self, critic, obs, particles, config, num_steps, trajectory):
        networks = {"critic": self._packed("critic", critic, True)}
        one = _like(particles)
        result = Result((config.num_steps + 1, *one.shape)) if trajectory else one
        settings = {"config": Config.of(config), "trajectory": trajectory}
        return _run("flow", [obs, particles], networks, [result], [num_steps], **settings)[0]

    def sample(self, policy, obs, noise, num_steps, clip):
        networks = {"policy": self._packed("policy", policy, False)}
        return _run("sample", [obs, noise], networks, [_like(noise)], [num_steps], clip=Clip.of(clip))[0]

    def act(
        self, critic, policy, obs, noise, euler_steps, config, num_steps, select, aggregate, temperature,
        select_noise,
    ):  # fmt: skip
        networks = {
            "critic": self._packed("critic", critic, _moves(num_steps)),
            "policy": self._packed("policy", policy, False),
        }
        if select_noise is None or select == "max":
            select_noise = jnp.zeros((noise.shape[0], 0), noise.dtype)
        return _run(
            "act", [obs, noise, select_noise], networks, [Result((STATES, noise.shape[2]))],
            [euler_steps, num_steps],
            config=Config.of(config), select=select, temperature=float(temperature), aggregate=aggregate,
        )[0]  # fmt: skip

    def td_target(
        self, critic, target_critic, policy, next_obs, noise, reward, mask, discount, euler_steps, config,
        num_steps, aggregate, reduce,
    ):  # fmt: skip
        networks = {
            "critic": self._packed("critic", critic, _moves(num_steps)),
            "target_critic": self._packed("target_critic", target_critic, False),
            "policy": self._packed("policy", policy, False),
        }
        return _run(
            "td_target", [next_obs, noise, reward, mask], networks, [Result((STATES,))],
            [euler_steps, num_steps],
            config=Config.of(config), discount=float(discount), aggregate=aggregate, reduce=reduce,
        )[0]  # fmt: skip

    def update(self, particles, dq, first_moment, second_moment, step, config):
        """One step of transport, numbered from 1: the particles and both moments after it."""
        states = [particles, dq, first_moment, second_moment]
        return tuple(_run("update", states, {}, [_like(particles)] * 3, [step], config=Config.of(config)))

    def _packed(self, name: str, network: Network | Packed, gradient: bool) -> Packed:
        if isinstance(network, Network):
            return self.pack(network, gradient)
        held = network.description
        if self.precision not in (None, held.precision):
            raise ValueError(
                f"{name}: expected weights packed in {self.precision!r}, got {held.precision!r}; pack them with "
                f"precision={self.precision!r} or leave precision out"
            )
        if gradient and not held.gradient:
            raise ValueError(
                f"{name}: expected weights packed with gradient=True, got gradient=False; pack them with it"
            )
        return network


def _moves(num_steps) -> bool:
    """Whether particles may move, so that the critic's gradient is needed."""
    return not isinstance(num_steps, int) or num_steps > 0


def _like(particles) -> Result:
    return Result((STATES, *particles.shape[1:]))


def _run(
    handler: str, per_state: list, networks: dict[str, Packed], results: list[Result], steps=(), **settings
):
    """Operands in the order of the handlers: packed weights, arrays, step counts."""
    descriptions = {name: packed.description for name, packed in networks.items()}
    return run(
        handler, [packed.weights for packed in networks.values()], per_state,
        [jnp.asarray(count, np.int32) for count in steps], results, **descriptions, **settings, threads=threads(),
    )  # fmt: skip
