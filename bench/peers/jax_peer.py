"""Jitted JAX: the official agent's algorithm, with parameters as arguments.

"jax" maps the critics with vmap, as the official agent does (flax's nn.vmap); "jax-unrolled" loops over them, which
XLA turns into faster products on a CPU. As in the official agent: jax.grad of the summed mean q, observations
repeated for every particle, the repulsion as jax.grad of the summed kernel. One thing differs: the
bandwidth is held fixed in that gradient, as in the library's default (which saves JAX a little time).
"""

from __future__ import annotations

import functools
import os

import numpy as np
from cases import ALPHA, CLIP, DISCOUNT, LEARNING_RATE, NORM_EPS, Case, Data, Layers

from . import EVICT_BYTES, Absent

# The other contestants live on the same GPU; read when JAX first looks for devices.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.95")  # the most it may take, of what is asked for

import jax
import jax.numpy as jnp

# ---- the algorithm. Networks are lists of layers; a critic ensemble has a leading axis E on every array.


def mlp(layers, x, activation=jax.nn.relu):
    for i, layer in enumerate(layers):
        x = x @ layer["W"] + layer["b"]
        if "scale" in layer:
            y = x.astype(jnp.float32)  # as flax's LayerNorm, whatever the precision
            mean = y.mean(axis=-1, keepdims=True)
            squares = (y * y).mean(axis=-1, keepdims=True)
            variance = jnp.maximum(squares - mean * mean, 0)
            y = (y - mean) * (jax.lax.rsqrt(variance + NORM_EPS) * layer["scale"]) + layer["bias"]
            x = y.astype(x.dtype)
        if i + 1 < len(layers):
            x = activation(x)
    return x


def ensemble_vmap(critics, rows, activation):
    return jax.vmap(functools.partial(mlp, activation=activation), in_axes=(0, None))(critics, rows)


def ensemble_loop(critics, rows, activation):
    members = critics[0]["W"].shape[0]
    one = (jax.tree.map(lambda array, e=e: array[e], critics) for e in range(members))
    return jnp.stack([mlp(critic, rows, activation) for critic in one])


def repeat(obs, n):
    """[B, O] -> [B*N, O]."""
    return jnp.repeat(obs[:, None], n, axis=1).reshape(-1, obs.shape[-1])


def values(ensemble, critics, obs, actions):
    """obs [B, O], actions [B, N, A] -> q [E, B, N]."""
    b, n, a = actions.shape
    rows = jnp.concatenate([repeat(obs, n), actions.reshape(b * n, a)], axis=-1).astype(critics[0]["W"].dtype)
    return ensemble(critics, rows)[..., 0].astype(jnp.float32).reshape(-1, b, n)


def rbf_kernel(x, y):
    """[B, N, N], with the median bandwidth, held fixed."""
    xx, yy = jnp.sum(x * x, axis=-1)[:, :, None], jnp.sum(y * y, axis=-1)[:, None, :]
    d2 = jnp.maximum(xx + yy - 2 * x @ y.transpose(0, 2, 1), 0)
    h = jnp.median(jax.lax.stop_gradient(d2), axis=(1, 2)) / (2 * jnp.log(x.shape[1] + 1.0))
    gamma = 1 / (1e-6 + 2 * jnp.maximum(h, 1e-12))
    return jnp.exp(-gamma[:, None, None] * d2)


def direction(ensemble, critics, obs, x):
    score = jax.grad(lambda actions: values(ensemble, critics, obs, actions).mean(axis=0).sum())(x)
    k = rbf_kernel(x, x)
    repulsion = -jax.grad(lambda moving: rbf_kernel(moving, x).sum())(x)
    return (k @ score / ALPHA + repulsion) / x.shape[1]


def flow(ensemble, critics, obs, x, steps):
    first, second = jnp.zeros_like(x), jnp.zeros_like(x)
    for step in range(1, steps + 1):
        gradient = -direction(ensemble, critics, obs, x)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient * gradient
        update = (first / (1 - 0.9**step)) / (jnp.sqrt(second / (1 - 0.999**step)) + 1e-8)
        x = jnp.clip(x - LEARNING_RATE * update, *CLIP)
    return x


def sample(policy, obs, x, steps):
    b, n, a = x.shape
    obs, x = repeat(obs, n), x.reshape(b * n, a)
    for i in range(steps):
        time = jnp.full((b * n, 1), i / steps)
        rows = jnp.concatenate([obs, x, time], axis=-1).astype(policy[0]["W"].dtype)
        x = x + mlp(policy, rows).astype(jnp.float32) / steps
    return jnp.clip(x, *CLIP).reshape(b, n, a)


def act(ensemble, critics, policy, obs, noise, euler_steps, flow_steps):
    x = flow(ensemble, critics, obs, sample(policy, obs, noise, euler_steps), flow_steps)
    best = values(ensemble, critics, obs, x).min(axis=0).argmax(axis=1)
    return x[jnp.arange(x.shape[0]), best]


def td_target(ensemble, critics, targets, policy, obs, noise, reward, mask, euler_steps, flow_steps):
    x = flow(ensemble, critics, obs, sample(policy, obs, noise, euler_steps), flow_steps)
    return reward + DISCOUNT * mask * values(ensemble, targets, obs, x).min(axis=0).mean(axis=1)


# ---- the contestant


class Peer:
    def __init__(self, name: str, device: str, precision: str) -> None:
        try:
            self.device = jax.devices(device)[0]
        except RuntimeError as error:
            raise Absent(f"jax finds no {device} device: {error}") from error
        jax.config.update("jax_default_device", self.device)
        matmul = "tensorfloat32" if precision == "tf32" else "float32"
        jax.config.update("jax_default_matmul_precision", matmul)
        self.dtype = jnp.bfloat16 if precision == "bf16" else jnp.float32
        self.ensemble = ensemble_vmap if name == "jax" else ensemble_loop
        self._evict_buffer = jnp.zeros(EVICT_BYTES, jnp.uint8) if device == "cuda" else None

    def describe(self) -> dict:
        return {"jax": jax.__version__, "jaxlib": jax.lib.__version__, "device": str(self.device)}

    def prepare(self, case: Case, data: Data, slices: list[slice]) -> list:
        critics, targets = (self._stack(members) for members in (data.critic, data.target_critic))
        policy = jax.tree.map(lambda array: array[0], self._stack(data.policy))
        activation = {"relu": jax.nn.relu, "gelu": jax.nn.gelu}[case.activation]
        ensemble = functools.partial(self.ensemble, activation=activation)
        steps = {"euler_steps": case.euler_steps, "flow_steps": case.flow_steps}
        function, networks, names = {
            "flow": (
                functools.partial(flow, ensemble, steps=case.flow_steps),
                (critics,),
                "obs particles",
            ),
            "sample": (functools.partial(sample, steps=case.euler_steps), (policy,), "obs noise"),
            "act": (functools.partial(act, ensemble, **steps), (critics, policy), "obs noise"),
            "td_target": (
                functools.partial(td_target, ensemble, **steps),
                (critics, targets, policy),
                "obs noise reward mask",
            ),
        }[case.function]
        jitted = jax.jit(function)
        arrays = [data.arrays[name] for name in names.split()]
        inputs = [[jax.device_put(array[states], self.device) for array in arrays] for states in slices]
        return [lambda a=a: jitted(*networks, *a) for a in inputs]

    def _stack(self, members: list[Layers]) -> list[dict]:
        """Members of equal layers -> layers with a leading axis E."""

        def stack(*layers: dict) -> dict:
            return {
                key: jnp.stack([jnp.asarray(layer[key], self.dtype) for layer in layers]) for key in layers[0]
            }

        return jax.device_put([stack(*layers) for layers in zip(*members)], self.device)

    def wait(self, output):
        return output.block_until_ready()

    def fetch(self, output) -> np.ndarray:
        return np.asarray(output, np.float32)

    def evict(self) -> None:
        if self._evict_buffer is not None:
            self._evict_buffer = (self._evict_buffer + 1).block_until_ready()
