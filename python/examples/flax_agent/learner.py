"""The training update, the same for both implementations of the flow: losses, optimizer, target critics.

As in the official agent: the particles of a target move on the online critics and are evaluated by the target
critics; the two aggregate in their own ways; the target critics follow the critics as they were before the update.
The amortized agent also learns a score, the action gradient of its critics, and moves particles along that.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from vgf_kernels import FlowConfig

from .networks import MLP, Params, critics, field, values


@dataclass(frozen=True)
class Settings:
    """What does not change in a run.

    Attributes:
        config: how particles move; `aggregate` in it is that of the online critics.
        aggregate, reduce: of the target critics over the ensemble, and over the particles of a state.
        amortized: move particles along a learned score, its norm over the batch at most `max_norm`.
        precision: of the fused implementation, "fp32" or "bf16".
    """

    hidden: tuple[int, ...] = (512, 512, 512, 512)
    particles: int = 10
    euler_steps: int = 5
    config: FlowConfig = FlowConfig(num_steps=1, learning_rate=0.1, alpha=1.0, bandwidth_grad=True)
    aggregate: str = "min"
    reduce: str = "mean"
    discount: float = 0.99
    learning_rate: float = 3e-4
    target_rate: float = 0.005
    amortized: bool = False
    max_norm: float = 1.0
    precision: str = "fp32"

    @property
    def along_the_score(self) -> FlowConfig:
        """The score itself is the direction: no kernel, and a temperature that cancels the mean over particles."""
        c = self.config
        return FlowConfig(c.num_steps, c.learning_rate, 1 / self.particles, kernel=None, clip=c.clip)


class Batch(NamedTuple):
    """Transitions: obs, next_obs [B, O]; actions [B, A]; reward, mask [B]."""

    obs: jax.Array
    actions: jax.Array
    reward: jax.Array
    mask: jax.Array
    next_obs: jax.Array


class State(NamedTuple):
    """`params` by network: "critic", "policy" and, amortized, "score"."""

    key: jax.Array
    params: dict[str, Params]
    target_critic: Params
    optimizer: Any


def create(key: jax.Array, obs_size: int, action_size: int, settings: Settings) -> State:
    key, critic_key, policy_key, score_key = jax.random.split(key, 4)
    row, step = jnp.zeros((1, obs_size + action_size)), jnp.zeros((1, obs_size + action_size + 1))
    vector = MLP(settings.hidden, action_size, layer_norm=False)
    params = {
        "critic": critics(settings.hidden).init(critic_key, row),
        "policy": vector.init(policy_key, step),
    }
    if settings.amortized:
        params["score"] = vector.init(score_key, row)
    return State(key, params, params["critic"], optax.adam(settings.learning_rate).init(params))


def update(
    state: State, batch: Batch, settings: Settings, implementation: ModuleType
) -> tuple[State, jax.Array]:
    """One step of all networks with targets from `implementation` (plain or fused), and the loss before it."""
    key, noise_key, x_key, t_key = jax.random.split(state.key, 4)
    size = (len(batch.obs), settings.particles, batch.actions.shape[1])
    noise = _normal(noise_key, size, batch.obs.dtype)
    networks = {**state.params, "target_critic": state.target_critic}
    target = implementation.td_target(networks, settings, batch, noise)
    x0 = _normal(x_key, batch.actions.shape, batch.obs.dtype)
    t = jax.random.uniform(t_key, (len(x0), 1), jnp.float32).astype(x0.dtype)

    def loss(params):
        q = values(settings.hidden, params["critic"], batch.obs, batch.actions)
        total = jnp.mean(jnp.sum(jnp.square(target - q), axis=0))
        velocity = field(settings.hidden, params["policy"], batch.obs, (1 - t) * x0 + t * batch.actions, t)
        total += jnp.mean(jnp.square(velocity - (batch.actions - x0)))
        if settings.amortized:
            score = field(settings.hidden, params["score"], batch.obs, batch.actions)
            total += jnp.mean(jnp.square(score - _action_gradient(state.params["critic"], batch, settings)))
        return total

    before, gradient = jax.value_and_grad(loss)(state.params)
    updates, optimizer = optax.adam(settings.learning_rate).update(gradient, state.optimizer)
    rate = settings.target_rate
    target_critic = jax.tree.map(
        lambda slow, fast: rate * fast + (1 - rate) * slow, state.target_critic, state.params["critic"]
    )
    return State(key, optax.apply_updates(state.params, updates), target_critic, optimizer), before


def _action_gradient(params: Params, batch: Batch, settings: Settings) -> jax.Array:
    """What the score learns: d/da of the critics' mean, [B, A]."""
    return jax.grad(lambda a: jnp.sum(jnp.mean(values(settings.hidden, params, batch.obs, a), axis=0)))(
        batch.actions
    )


def _normal(key: jax.Array, shape: tuple[int, ...], dtype) -> jax.Array:
    """Standard normal numbers, the same ones in every dtype."""
    return jax.random.normal(key, shape, jnp.float32).astype(dtype)
