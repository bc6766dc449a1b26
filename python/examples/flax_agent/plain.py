"""The flow in plain jax.numpy, as an agent has it without this library."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from .learner import Batch, Settings
from .networks import Params, field, values


def td_target(networks: dict[str, Params], settings: Settings, batch: Batch, noise: jax.Array) -> jax.Array:
    """target [B] of a batch; noise [B, N, A]."""
    x = move(networks, settings, batch.next_obs, noise)
    q = aggregated(networks["target_critic"], settings, batch.next_obs, x, settings.aggregate)
    best = jnp.max(q, axis=1) if settings.reduce == "max" else jnp.mean(q, axis=1)
    return batch.reward + settings.discount * batch.mask * best


def act(networks: dict[str, Params], settings: Settings, obs: jax.Array, noise: jax.Array) -> jax.Array:
    """actions [B, A]."""
    x = move(networks, settings, obs, noise)
    best = jnp.argmax(aggregated(networks["critic"], settings, obs, x, settings.aggregate), axis=1)
    return jnp.take_along_axis(x, best[:, None, None], axis=1)[:, 0]


def move(networks: dict[str, Params], settings: Settings, obs: jax.Array, noise: jax.Array) -> jax.Array:
    """Particles from the policy, moved along the critics or the learned score. [B, N, A]."""
    config = settings.config
    x = sample(networks["policy"], settings, obs, noise)
    first = second = jnp.zeros_like(x)
    for step in range(1, config.num_steps + 1):
        if settings.amortized:
            phi = field(settings.hidden, networks["score"], repeated(obs, x), x)
            norm = jnp.linalg.norm(phi)
            phi = jnp.where(norm < settings.max_norm, phi, phi / norm * settings.max_norm)
        else:
            phi = direction(networks["critic"], settings, obs, x)
        first = 0.9 * first - 0.1 * phi
        second = 0.999 * second + 0.001 * phi * phi
        corrected = first / (1 - 0.9**step) / (jnp.sqrt(second / (1 - 0.999**step)) + 1e-8)
        x = jnp.clip(x - config.learning_rate * corrected, *config.clip)
    return x


def sample(params: Params, settings: Settings, obs: jax.Array, noise: jax.Array) -> jax.Array:
    """Euler steps along the velocity field. [B, N, A]."""
    x, steps = noise, settings.euler_steps
    for i in range(steps):
        t = jnp.full_like(x[..., :1], i / steps)
        x = x + field(settings.hidden, params, repeated(obs, x), x, t) / steps
    return jnp.clip(x, *settings.config.clip)


def direction(params: Params, settings: Settings, obs: jax.Array, x: jax.Array) -> jax.Array:
    """phi [B, N, A]: the critics' gradient, smoothed by the kernel, and the repulsion of the particles."""
    config = settings.config

    def total(actions):
        return jnp.sum(aggregated(params, settings, obs, actions, config.aggregate))

    fixed = jax.lax.stop_gradient(x)
    k = kernel(x, fixed)
    repulsion = -jax.grad(lambda moving: jnp.sum(kernel(moving, fixed)))(x)  # through the median too
    return (k @ jax.grad(total)(x) / config.alpha + repulsion) / x.shape[1]


def kernel(x: jax.Array, y: jax.Array) -> jax.Array:
    """The RBF kernel with the median bandwidth. [B, N, N]."""
    squares_x, squares_y = jnp.sum(x * x, axis=-1), jnp.sum(y * y, axis=-1)
    products = jnp.einsum("bia,bja->bij", x, y)
    d2 = jnp.maximum(squares_x[:, :, None] + squares_y[:, None] - 2 * products, 0)
    h = median(d2) / (2 * jnp.log(x.shape[1] + 1.0))
    return jnp.exp(-d2 / (1e-6 + 2 * jnp.maximum(h, 1e-12)))


def median(d2: jax.Array) -> jax.Array:
    """The median of every state's [N, N] entries, [B, 1, 1].

    jnp.median has the same value. Distances come in equal pairs, though, and which of a pair its gradient goes to
    differs between versions of JAX (0.10 and 0.12, say); that of a stable sort does not.
    """
    entries = jnp.sort(d2.reshape(len(d2), -1), axis=1, stable=True)
    count = entries.shape[1]
    return (entries[:, (count - 1) // 2] / 2 + entries[:, count // 2] / 2)[:, None, None]


def aggregated(params: Params, settings: Settings, obs: jax.Array, x: jax.Array, how: str) -> jax.Array:
    """The ensemble's value of every particle. [B, N]."""
    q = values(settings.hidden, params, repeated(obs, x), x)
    return jnp.min(q, axis=0) if how == "min" else jnp.mean(q, axis=0)


def repeated(obs: jax.Array, x: jax.Array) -> jax.Array:
    """obs [B, O] for every particle of x [B, N, A]: [B, N, O]."""
    return jnp.broadcast_to(obs[:, None], (*x.shape[:2], obs.shape[1]))
