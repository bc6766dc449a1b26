"""The definition of every public function, in NumPy and any float dtype: readable, slow, and what engines are held against.

Shapes: B states, N particles a state, A action dims, O observation dims, E critics.
The arithmetic follows the arrays' dtype: pass float64 arrays for float64 truth.
"""

from __future__ import annotations

import numpy as np

from .. import checks
from ..config import FlowConfig
from ..mlp import MLP, Layer
from .mlp import forward, forward_with_tape, input_gradient
from .pairwise import direction_from_gradient


def _members(mlp: MLP) -> list[list[Layer]]:
    """The weights as NumPy arrays."""

    def numpy(array):
        return array if array is None or isinstance(array, np.ndarray) else array.detach().cpu().numpy()

    return [[Layer(*map(numpy, layer)) for layer in member] for member in mlp.members]


def _rows(obs: np.ndarray, actions: np.ndarray, *more: np.ndarray) -> np.ndarray:
    """concat(obs, action, ...) for every particle: [B*N, O+A+...]."""
    b, n = actions.shape[:2]
    repeated = np.broadcast_to(obs[:, None, :], (b, n, obs.shape[1]))
    return np.concatenate([repeated, actions, *more], axis=-1).reshape(b * n, -1)


def value(critic: MLP, obs: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """q of every critic. obs [B, O], actions [B, N, A] -> q [E, B, N]."""
    checks.check_value(critic, obs.shape, actions.shape)
    x = _rows(obs, actions)
    q = [
        forward(layers, x, critic.activation, critic.norm, critic.norm_eps)[:, 0]
        for layers in _members(critic)
    ]
    return np.stack(q).reshape(len(q), *actions.shape[:2])


def value_and_grad(critic: MLP, obs: np.ndarray, actions: np.ndarray, aggregate: str = "mean"):
    """q [E, B, N] and dq [B, N, A], the gradient of sum over (B, N) of agg_E q with respect to the actions.

    aggregate "min" gives the gradient to the smallest critic; an exact tie shares it evenly.
    """
    checks.check_value(critic, obs.shape, actions.shape, aggregate)
    x = _rows(obs, actions)
    passes = [
        forward_with_tape(layers, x, critic.activation, critic.norm, critic.norm_eps)
        for layers in _members(critic)
    ]
    q = np.stack([out[:, 0] for out, _ in passes])
    if aggregate == "min":
        smallest = (q == q.min(axis=0)).astype(q.dtype)
        share = smallest / smallest.sum(axis=0)
    else:
        share = np.full_like(q, 1 / len(q))
    dx = sum(
        input_gradient(layers, tape, s[:, None], critic.norm)
        for layers, (_, tape), s in zip(_members(critic), passes, share)
    )
    return q.reshape(-1, *actions.shape[:2]), dx[:, obs.shape[1] :].reshape(actions.shape)


def direction(critic: MLP, obs: np.ndarray, particles: np.ndarray, config: FlowConfig) -> np.ndarray:
    """The flow direction phi [B, N, A] at the particles."""
    _, dq = value_and_grad(critic, obs, particles, config.aggregate)
    return direction_from_gradient(particles, dq, config)


def update(x: np.ndarray, phi: np.ndarray, moments, step: int, config: FlowConfig):
    """One optimizer step, numbered from 1, along phi, then clip. Adam after arXiv 1412.6980, algorithm 1.

    x, phi [B, N, A]; moments a pair of the same shape, of `moment_dtype`. Returns the new x and the new moments.
    """
    first, second = moments
    gradient = -phi.astype(first.dtype)
    if config.optimizer == "adam":
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient * gradient
        gradient = first / (1 - 0.9**step) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    x = (x - config.learning_rate * gradient).astype(x.dtype)
    return (x if config.clip is None else np.clip(x, *config.clip)), (first, second)


def moment_dtype(dtype: np.dtype) -> np.dtype:
    """Of Adam's moments: float32 at least, since float16 has neither 1e-8 nor the squares of small gradients."""
    return np.promote_types(dtype, np.float32)


def transport(score_fn, particles: np.ndarray, config: FlowConfig, trajectory: bool = False) -> np.ndarray:
    """Move particles along any value function: score_fn(particles) returns its gradient dq [B, N, A].

    Returns particles [B, N, A], or [L+1, B, N, A] with trajectory=True.
    """
    checks.check_transport(score_fn, particles.shape, config, trajectory)
    x = np.array(particles)
    moments = np.zeros(x.shape, moment_dtype(x.dtype)), np.zeros(x.shape, moment_dtype(x.dtype))
    path = [x]
    for step in range(1, config.num_steps + 1):
        x, moments = update(x, direction_from_gradient(x, score_fn(x), config), moments, step, config)
        path.append(x)
    return np.stack(path) if trajectory else x


def flow(critic: MLP, obs: np.ndarray, particles: np.ndarray, config: FlowConfig, trajectory: bool = False):
    """num_steps steps of the value gradient flow. particles [B, N, A] -> [B, N, A] (or [L+1, B, N, A])."""
    return transport(
        lambda x: value_and_grad(critic, obs, x, config.aggregate)[1], particles, config, trajectory
    )


def sample(policy: MLP, obs: np.ndarray, noise: np.ndarray, num_steps: int, clip=(-1.0, 1.0)) -> np.ndarray:
    """Euler on the velocity field v(obs, x, t), t = i/K. obs [B, O], noise [B, N, A] -> particles [B, N, A]."""
    checks.check_sample(policy, obs.shape, noise.shape, num_steps)
    (layers,) = _members(policy)
    x = noise
    for i in range(num_steps):
        t = np.full((*x.shape[:2], 1), i / num_steps, dtype=x.dtype)
        v = forward(layers, _rows(obs, x, t), policy.activation, policy.norm, policy.norm_eps)
        x = x + v.reshape(x.shape) / num_steps
    return x if clip is None else np.clip(x, *clip)


def aggregate_ensemble(q: np.ndarray, aggregate: str) -> np.ndarray:
    """[E, B, N] -> [B, N]."""
    return q.min(axis=0) if aggregate == "min" else q.mean(axis=0)


def select(
    q: np.ndarray,
    how: str = "max",
    *,
    aggregate: str = "mean",
    temperature: float = 1.0,
    noise: np.ndarray | None = None,
) -> np.ndarray:
    """Pick one particle a state. q [B, N] (or [E, B, N], aggregated first) -> index [B], int64.

    how: "max" the first largest; "softmax" a draw with logits q / temperature (Gumbel-max on the noise);
    "uniform" any. noise [B, N], uniform in (0, 1), is needed for the two random ones.
    """
    checks.check_select(q.shape, how, aggregate, temperature, None if noise is None else noise.shape)
    if q.ndim == 3:
        q = aggregate_ensemble(q, aggregate)
    if how == "softmax":
        with np.errstate(divide="ignore"):  # noise of 0, which a generator may draw, is never the largest
            q = q / temperature - np.log(-np.log(noise))
    elif how == "uniform":
        q = noise
    return np.argmax(q, axis=1)


def act(
    critic: MLP,
    policy: MLP,
    obs: np.ndarray,
    noise: np.ndarray,
    euler_steps: int,
    config: FlowConfig,
    select: str = "max",
    aggregate: str = "mean",
    *,
    temperature: float = 1.0,
    select_noise: np.ndarray | None = None,
) -> np.ndarray:
    """One action a state: sample, flow, evaluate on the same critic, select. -> actions [B, A]."""
    particles = flow(critic, obs, sample(policy, obs, noise, euler_steps, config.clip), config)
    q = value(critic, obs, particles)
    index = _select(q, select, aggregate=aggregate, temperature=temperature, noise=select_noise)
    return particles[np.arange(len(obs)), index]


_select = select


def td_target(
    critic: MLP,
    target_critic: MLP,
    policy: MLP,
    next_obs: np.ndarray,
    noise: np.ndarray,
    reward: np.ndarray,
    mask: np.ndarray,
    discount: float,
    euler_steps: int,
    config: FlowConfig,
    aggregate: str = "mean",
    reduce: str = "mean",
) -> np.ndarray:
    """reward + discount * mask * reduce_N agg_E q_target(next_obs, flowed particles). -> target [B].

    The particles move on the online critic; the target critic evaluates them.
    """
    checks.check_td_target(
        critic, target_critic, policy, next_obs.shape, noise.shape, reward.shape, mask.shape,
        discount, euler_steps, config, aggregate, reduce,
    )  # fmt: skip
    particles = flow(critic, next_obs, sample(policy, next_obs, noise, euler_steps, config.clip), config)
    q = aggregate_ensemble(value(target_critic, next_obs, particles), aggregate)
    return reward + discount * mask * (q.max(axis=1) if reduce == "max" else q.mean(axis=1))
