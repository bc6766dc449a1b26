"""The agent's networks, in flax."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

Params = dict


class MLP(nn.Module):
    """Dense -> (LayerNorm ->) relu blocks, and a Dense at the end."""

    hidden: tuple[int, ...]
    outputs: int
    layer_norm: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for width in self.hidden:
            x = nn.Dense(width)(x)
            x = nn.relu(nn.LayerNorm()(x) if self.layer_norm else x)
        return nn.Dense(self.outputs)(x)


def critics(hidden: tuple[int, ...], members: int = 2) -> nn.Module:
    """`members` critics with a leading axis on every parameter: [R, O + A] -> [members, R, 1]."""
    ensemble = nn.vmap(
        MLP, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=None, axis_size=members
    )
    return ensemble(hidden, 1, layer_norm=True)


def values(hidden: tuple[int, ...], params: Params, obs: jax.Array, actions: jax.Array) -> jax.Array:
    """q [E, ...] of obs [..., O] and actions [..., A]."""
    return critics(hidden).apply(params, jnp.concatenate([obs, actions], axis=-1))[..., 0]


def field(hidden: tuple[int, ...], params: Params, *inputs: jax.Array) -> jax.Array:
    """A vector for every action: the velocity at (obs, x, t), or the score at (obs, x). [..., A]."""
    outputs = inputs[1].shape[-1]
    return MLP(hidden, outputs, layer_norm=False).apply(params, jnp.concatenate(inputs, axis=-1))
