"""The compiled engines on jax arrays: every method is one call, whose engine may show only when it is compiled."""

from __future__ import annotations

import numbers
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from ..threads import threads
from .attributes import Clip, Config
from .calls import STATES, Result, Terms
from .networks import (
    Layout,
    Network,
    Packed,
    as_policy,
    check_dtypes,
    describe,
    role_of,
    weights_of,
    with_time,
)
from .platforms import ENGINES, Fused, default, engine_for
from .precision import precisions
from .primitive import run


def as_count(steps) -> jax.Array:
    """A number of steps as int32; of an array of another type, the nearest that int32 holds."""
    if isinstance(steps, numbers.Integral) or steps.dtype == np.int32:
        return jnp.asarray(steps, np.int32)
    steps, held = jnp.asarray(steps), np.iinfo(np.int32)
    return steps.clip(max(held.min, np.iinfo(steps.dtype).min), min(held.max, np.iinfo(steps.dtype).max)).astype(np.int32)


@dataclass(frozen=True)
class Engine:
    """The public functions on checked float32 arrays.

    Networks come as Network, whose weights are then packed in the same computation, or as Packed. Step counts
    are numbers or traced int32 scalars.

    Attributes:
        backend: "cpu", "cuda", or None: the engine of the platform that the computation is compiled for.
        precision: "fp32", "tf32" or "bf16"; None: as packed, else what `precisions` says.
    """

    backend: str | None
    precision: str | None

    def check(self, networks) -> None:
        """Raise TypeError where weights are not float32."""
        for network in networks:
            if isinstance(network, Network):
                check_dtypes(network, self.backend or default(), ("float32",))

    def pack(self, network: Network, gradient: bool, role: str, observations: int | None) -> Packed:
        """role: as in Layout; observations: how many of its inputs are, which the cuda engine must know."""
        if role == "score":
            network = with_time(network)
        engine = self._likely()
        precision = self._precision(engine)
        if engine.name == "cuda" and observations is None:
            raise ValueError(
                "observations: the cuda engine's layout depends on how many inputs of the network are observations, "
                "got None; pass observations=obs.shape[-1]"
            )
        layout = Layout(engine.name, precision, observations or 0, role)
        packed = describe(network, gradient)._replace(layout=layout)
        (weights,) = run(
            self._terms([])._replace(backend=engine.name), "pack", {"network": (packed, weights_of(network))}, [], [],
            [Result((packed.packed_bytes(engine.handlers()),), np.uint8)],
        )  # fmt: skip
        return Packed(weights, packed)

    def prepare(self, score: Network | Packed, observations: int, particles: int) -> Network | Packed:
        """A score as a policy, for calls of `sample` with so many particles."""
        if isinstance(score, Packed):
            return as_policy(score)
        engine = self._likely()
        if engine.reads_in_place(self._precision(engine), particles):
            return with_time(score)
        return as_policy(self.pack(score, False, "score", observations))

    def value(self, critic, obs, actions):
        q = Result((critic.ensemble, STATES, actions.shape[1]))
        return self._run("value", {"critic": (critic, False)}, [obs, actions], [], [q])[0]

    def value_and_grad(self, critic, obs, actions, aggregate):
        q, dq = Result((critic.ensemble, STATES, actions.shape[1])), Result.like(actions)
        return tuple(
            self._run("value_and_grad", {"critic": (critic, True)}, [obs, actions], [], [q, dq], aggregate=aggregate)
        )

    def jacobian(self, critic, obs, actions):
        """q [E, B, N] and the gradient of every critic, [E, B, N, A]."""
        q = Result((critic.ensemble, STATES, actions.shape[1]))
        dq = Result((*q.shape, actions.shape[2]))
        return tuple(self._run("jacobian", {"critic": (critic, True)}, [obs, actions], [], [q, dq]))

    def direction(self, critic, obs, particles, config):
        networks = {"critic": (critic, True)}
        return self._run(
            "direction", networks, [obs, particles], [], [Result.like(particles)], config=Config.of(config)
        )[0]

    def flow(self, critic, obs, particles, config, num_steps, trajectory):
        networks = {"critic": (critic, True)}
        one = Result.like(particles)
        result = Result((config.num_steps + 1, *one.shape)) if trajectory else one
        settings = {"config": Config.of(config), "trajectory": trajectory}
        return self._run("flow", networks, [obs, particles], [num_steps], [result], **settings)[0]

    def sample(self, policy, obs, noise, num_steps, clip):
        networks = {"policy": (policy, False)}
        return self._run(
            "sample", networks, [obs, noise], [num_steps], [Result.like(noise)], clip=Clip.of(clip)
        )[0]

    def act(
        self, critic, policy, obs, noise, euler_steps, config, num_steps, select, aggregate, temperature,
        select_noise,
    ):  # fmt: skip
        networks = {"critic": (critic, _moves(num_steps)), "policy": (policy, False)}
        if select_noise is None or select == "max":
            select_noise = jnp.zeros((noise.shape[0], 0), noise.dtype)
        return self._run(
            "act", networks, [obs, noise, select_noise], [euler_steps, num_steps],
            [Result((STATES, noise.shape[2]))],
            config=Config.of(config), select=select, temperature=float(temperature), aggregate=aggregate,
        )[0]  # fmt: skip

    def td_target(
        self, critic, target_critic, policy, next_obs, noise, reward, mask, discount, euler_steps, config,
        num_steps, aggregate, reduce,
    ):  # fmt: skip
        networks = {
            "critic": (critic, _moves(num_steps)),
            "target_critic": (target_critic, False),
            "policy": (policy, False),
        }
        return self._run(
            "td_target", networks, [next_obs, noise, reward, mask], [euler_steps, num_steps],
            [Result((STATES,))],
            config=Config.of(config), discount=float(discount), aggregate=aggregate, reduce=reduce,
        )[0]  # fmt: skip

    def update(self, particles, dq, first_moment, second_moment, step, config):
        """One step of transport, numbered from 1: the particles and both moments after it."""
        states = [particles, dq, first_moment, second_moment]
        return tuple(
            self._run("update", {}, states, [step], [Result.like(particles)] * 3, config=Config.of(config))
        )

    def _run(self, handler, networks, per_state, steps, results, **settings):
        """networks: by name, each with whether its gradient is needed."""
        terms = self._terms([network for network, _ in networks.values() if isinstance(network, Packed)])
        self._check_agreement({name: network for name, (network, _) in networks.items()})
        observations = per_state[0].shape[1]
        operands = {
            name: self._operands(name, network, gradient, observations)
            for name, (network, gradient) in networks.items()
        }
        steps = [as_count(count) for count in steps]
        return run(terms, handler, operands, per_state, steps, results, **settings)

    def _likely(self) -> Fused:
        """The engine that was asked for, else the default platform's."""
        return engine_for(self.backend, ENGINES[self.backend].platform if self.backend else default())

    def _precision(self, engine: Fused) -> str:
        return dict(self._terms([]).precisions)[engine.name]

    def _terms(self, packed: list[Packed]) -> Terms:
        layouts = [network.description.layout for network in packed]
        backend = self.backend or (layouts[0].engine if layouts else None)
        precision = self.precision or (layouts[0].precision if layouts else None)
        return Terms(backend, precisions(precision), threads())

    def _check_agreement(self, networks: dict[str, Network | Packed]) -> None:
        """Raise ValueError where networks packed in one precision would silently decide that of others."""
        if self.precision is not None or not any(isinstance(network, Packed) for network in networks.values()):
            return
        held = {
            name: network.description.layout.precision if isinstance(network, Packed) else self._precision(self._likely())
            for name, network in networks.items()
        }
        if len(set(held.values())) > 1:
            raise ValueError(
                f"precision: expected networks packed in the same one, got {held}, where what is not packed has the default; "
                "pack all of them in one precision, or pass precision="
            )

    def _operands(self, name: str, network: Network | Packed, gradient: bool, observations: int):
        """The description and the arrays of a network; raises where packed ones do not fit the call."""
        if isinstance(network, Network):
            return describe(network, gradient), weights_of(network)
        held = network.description
        layout = held.layout
        if self.backend not in (None, layout.engine):
            raise ValueError(
                f"{name}: expected weights packed for the {self.backend} engine, got those of {layout.engine}; pack "
                f"them with backend={self.backend!r} or leave backend out"
            )
        if self.precision not in (None, layout.precision):
            raise ValueError(
                f"{name}: expected weights packed in {self.precision!r}, got {layout.precision!r}; pack them with "
                f"precision={self.precision!r} or leave precision out"
            )
        if gradient and not held.gradient:
            raise ValueError(
                f"{name}: expected weights packed with gradient=True, got gradient=False; pack them with it"
            )
        role, on_cuda = role_of(name), layout.engine == "cuda"
        if layout.role != role and (on_cuda or layout.role == "score"):
            raise ValueError(
                f"{name}: expected weights packed with role={role!r}, got {layout.role!r}; pack them so"
            )
        if layout.observations != observations and on_cuda:
            raise ValueError(
                f"{name}: expected weights packed with observations={observations}, got {layout.observations}; "
                "pack them so"
            )
        return held, [network.weights]


def _moves(num_steps) -> bool:
    """Whether particles may move, so that the critic's gradient is needed."""
    return not isinstance(num_steps, int) or num_steps > 0
