"""The flow of large states where step counts lie on the device: a loop of calls, a step each.

There a state that fills more than a tile takes several launches a step, so somebody on the host must know how many. XLA's
own loop does: it looks at the count where the engine would have to wait for it.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from .calls import STATES, Call, Result
from .selection import aggregated, chosen


def needed(call: Call, arrays: list, most: int) -> bool:
    """Whether particles of a state look at each other, more than `most` of them, for a number of steps."""
    settings = dict(call.attributes)
    if call.handler not in ("flow", "act", "td_target") or settings.get("trajectory"):
        return False
    (critic,) = (net for net in call.networks if net.name == "critic")
    return settings["config"].kernel and critic.description.gradient and arrays[1].shape[1] > most


def run(call: Call, networks: dict[str, tuple], arrays: list, bind) -> list[jax.Array]:
    """The results of a call by calls of one step.

    Args:
        networks: description and packed weights of each, by name.
        arrays: the operands after them.
        bind: that of the primitive for a call on one device.
    """
    return _Loop(call, networks, bind).run(arrays)


class _Loop:
    def __init__(self, call: Call, networks: dict[str, tuple], bind) -> None:
        self._call, self._networks, self._bind = call, networks, bind
        self._settings = dict(call.attributes)

    def run(self, arrays: list) -> list[jax.Array]:
        if self._call.handler == "flow":
            obs, x, steps = arrays
            return [self._moved(obs, x, steps)]
        obs, noise, *others, euler_steps, steps = arrays
        drawn = self._one(
            "sample", "policy", [obs, noise], [euler_steps], [Result.like(noise)], clip=self._settings["config"].clip
        )
        x = self._moved(obs, drawn[0], steps)
        if self._call.handler == "act":
            return [self._picked(obs, x, *others)]
        return [self._target(obs, x, *others)]

    def _one(self, handler, network, per_state, steps, results, **attributes) -> list[jax.Array]:
        name = "critic" if network == "target_critic" else network  # of the handler's attribute
        networks = {name: self._networks[network]} if network else {}
        call, operands = Call.of(
            self._call.terms, handler, networks, per_state, steps, results, **attributes
        )
        return self._bind(*operands, call=call)

    def _ensemble(self, critic: str) -> int:
        return self._networks[critic][0].ensemble

    def _moved(self, obs, x, steps):
        config = self._settings["config"]
        q = Result((self._ensemble("critic"), STATES, x.shape[1]))

        def move(step, state):
            x, *moments = state
            _, dq = self._one(
                "value_and_grad", "critic", [obs, x], [], [q, Result.like(x)], aggregate=config.aggregate
            )
            return tuple(self._one("update", None, [x, dq, *moments], [step + 1], [Result.like(x)] * 3, config=config))

        nothing = jnp.zeros_like(x)
        return jax.lax.fori_loop(0, steps, move, (x, nothing, nothing))[0]

    def _values(self, obs, x, critic: str) -> Any:
        q = Result((self._ensemble(critic), STATES, x.shape[1]))
        return aggregated(self._one("value", critic, [obs, x], [], [q])[0], self._settings["aggregate"])

    def _picked(self, obs, x, select_noise):
        how, temperature = self._settings["select"], self._settings["temperature"]
        index = chosen(self._values(obs, x, "critic"), how, temperature, select_noise)
        return jnp.take_along_axis(x, index[:, None, None], axis=1)[:, 0]

    def _target(self, obs, x, reward, mask):
        q = self._values(obs, x, "target_critic")
        q = jnp.max(q, axis=1) if self._settings["reduce"] == "max" else jnp.mean(q, axis=1)
        return reward + self._settings["discount"] * mask * q
