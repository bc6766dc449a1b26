"""The flow on vgf_kernels.jax: what plain.py says in a hundred lines."""

from __future__ import annotations

import jax
import jax.numpy as jnp

import vgf_kernels.jax as vgf

from .learner import Batch, Settings
from .networks import Params

Networks = dict[str, Params | vgf.Packed]  # by name, as in plain.py, or as `pack` returns them


def td_target(networks: Networks, settings: Settings, batch: Batch, noise: jax.Array) -> jax.Array:
    """target [B] of a batch; noise [B, N, A]."""
    policy, target_critic = network(networks["policy"]), network(networks["target_critic"])
    if not settings.amortized:
        return vgf.td_target(
            network(networks["critic"]), target_critic, policy, batch.next_obs, noise, batch.reward, batch.mask,
            settings.discount, settings.euler_steps, settings.config, settings.aggregate, settings.reduce,
            precision=settings.precision,
        )  # fmt: skip
    x = along_the_score(networks, settings, batch.next_obs, noise)
    q = vgf.value(target_critic, batch.next_obs, x, precision=settings.precision)
    q = jnp.min(q, axis=0) if settings.aggregate == "min" else jnp.mean(q, axis=0)
    best = jnp.max(q, axis=1) if settings.reduce == "max" else jnp.mean(q, axis=1)
    return batch.reward + settings.discount * batch.mask * best


def act(networks: Networks, settings: Settings, obs: jax.Array, noise: jax.Array) -> jax.Array:
    """actions [B, A]."""
    critic, policy = network(networks["critic"]), network(networks["policy"])
    if not settings.amortized:
        return vgf.act(
            critic, policy, obs, noise, settings.euler_steps, settings.config,
            aggregate=settings.aggregate, precision=settings.precision,
        )  # fmt: skip
    x = along_the_score(networks, settings, obs, noise)
    q = vgf.value(critic, obs, x, precision=settings.precision)
    index = vgf.select(q, aggregate=settings.aggregate)
    return jnp.take_along_axis(x, index[:, None, None], axis=1)[:, 0]


def along_the_score(networks: Networks, settings: Settings, obs: jax.Array, noise: jax.Array) -> jax.Array:
    """Particles from the policy, moved along the learned score. [B, N, A]."""
    config, precision = settings.along_the_score, settings.precision
    x = vgf.sample(
        network(networks["policy"]), obs, noise, settings.euler_steps, config.clip, precision=precision
    )
    score = network(networks["score"])
    return vgf.transport(score, x, config, obs=obs, max_norm=settings.max_norm, precision=precision)


def pack(networks: Networks, settings: Settings) -> Networks:
    """The networks that choose actions packed, for many actions with the same parameters."""
    policy = network(networks["policy"])
    observations = policy.widths[0] - policy.widths[-1] - 1  # besides them, it sees an action and the time
    packed = {
        role: vgf.pack(
            network(networks[role]), role=role, observations=observations, precision=settings.precision
        )
        for role in ("critic", "policy", "score")
        if role in networks
    }
    return {**networks, **packed}


def network(params: Params | vgf.Packed) -> vgf.Network | vgf.Packed:
    return params if isinstance(params, vgf.Packed) else vgf.network(params)
