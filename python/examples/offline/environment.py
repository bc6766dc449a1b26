"""Pendulum-v1 with a weak, half-right behaviour policy: what the agent learns from and is judged on."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import gymnasium
import numpy as np

ENVIRONMENT = "Pendulum-v1"
EPISODE_STEPS = 200  # Pendulum-v1 never terminates; it is truncated here
MAX_TORQUE = 2.0  # actions are in [-1, 1]; the environment takes torques
RIGHT_SHARE = 0.75  # how often the behaviour pushes the right way
STRENGTH = 0.35  # the centre of its push, as a share of the full torque
NOISE = 0.1


class Episodes(NamedTuple):
    """Whole episodes, played side by side: obs [T+1, n, 3], actions [T, n, 1], rewards [T, n], all float32."""

    obs: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray

    @property
    def returns(self) -> np.ndarray:
        """Undiscounted return of every episode, [n]."""
        return self.rewards.sum(axis=0)


class Dataset(NamedTuple):
    """Transitions in random order: obs, next_obs [M, 3], actions [M, 1], rewards [M], float32."""

    obs: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    next_obs: np.ndarray


def play(policy: Callable[[np.ndarray], np.ndarray], episodes: int, seed: int) -> Episodes:
    """Play `episodes` episodes in parallel; policy maps obs [n, 3] to actions [n, 1] in [-1, 1]."""
    envs = gymnasium.make_vec(ENVIRONMENT, num_envs=episodes, vectorization_mode="sync")
    obs, _ = envs.reset(seed=seed)
    path, actions, rewards = [obs], [], []
    for _ in range(EPISODE_STEPS):
        action = policy(path[-1])
        obs, reward, _, _, _ = envs.step(MAX_TORQUE * action)
        path.append(obs)
        actions.append(action)
        rewards.append(reward)
    envs.close()
    return Episodes(*(np.stack(a).astype(np.float32) for a in (path, actions, rewards)))


def behaviour(seed: int) -> Callable[[np.ndarray], np.ndarray]:
    """A scripted policy with two modes: it pushes the right way or the opposite way, and always too weakly.

    The right way is along the velocity while the pendulum has too little energy to reach the top, against it
    when it has too much, and towards the top when near it.
    """
    rng = np.random.default_rng(seed)

    def policy(obs: np.ndarray) -> np.ndarray:
        cos, sin, speed = obs.T
        angle = np.arctan2(sin, cos)  # 0 is upright
        energy = speed**2 / 6 + 5 * (cos - 1)  # 0: just enough to reach the top
        swing = np.where(energy < 0, 1, -1) * np.where(speed >= 0, 1, -1)
        balance = np.clip(-8 * angle - 2 * speed, -1, 1)
        right = np.where(np.abs(angle) < 0.4, balance, swing)
        mode = np.where(rng.random(len(obs)) < RIGHT_SHARE, 1, -1)
        action = STRENGTH * mode * right + NOISE * rng.standard_normal(len(obs))
        return np.clip(action, -1, 1)[:, None].astype(np.float32)

    return policy


def collect(size: int, seed: int) -> Dataset:
    """At least `size` transitions of the behaviour policy, in whole episodes."""
    played = play(behaviour(seed), -(-size // EPISODE_STEPS), seed)
    flat = [
        a.reshape(-1, *a.shape[2:]) for a in (played.obs[:-1], played.actions, played.rewards, played.obs[1:])
    ]
    order = np.random.default_rng(seed).permutation(len(flat[0]))
    return Dataset(*(a[order] for a in flat))
