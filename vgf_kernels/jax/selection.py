"""Which particle of a state is chosen, from values q."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def aggregated(q: jax.Array, aggregate: str) -> jax.Array:
    """q [E, B, N] -> [B, N]."""
    return jnp.min(q, axis=0) if aggregate == "min" else jnp.mean(q, axis=0)


def chosen(q: jax.Array, how: str, temperature: float, noise: jax.Array | None) -> jax.Array:
    """q [B, N] -> index [B]; softmax by the Gumbel-max trick."""
    if how == "softmax":
        q = q / temperature - jnp.log(-jnp.log(noise))
    elif how == "uniform":
        q = noise
    return jnp.argmax(q, axis=1)
