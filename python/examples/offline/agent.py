"""A VGF agent: flow-matching policy, twin critics, TD targets and actions from a flow backend."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import nn

from vgf_kernels import MLP, FlowConfig

from . import plain_torch
from .environment import Dataset

HIDDEN = (256, 256)
PARTICLES = 10  # N
EULER_STEPS = 5  # K
TRAIN_CONFIG = FlowConfig(num_steps=1, learning_rate=0.1, alpha=1.0)
AGGREGATE = "min"  # of the twin critics, where particles are evaluated; they are moved along the mean
LEARNING_RATE = 3e-4
DISCOUNT = 0.95
TARGET_RATE = 0.01  # twice the usual, since the run is short
REWARD_SCALE = 0.1


def network(inputs: int, outputs: int, layer_norm: bool) -> nn.Sequential:
    """Linear -> (LayerNorm ->) ReLU blocks and a Linear at the end."""
    layers: list[nn.Module] = []
    for width in HIDDEN:
        layers += [nn.Linear(inputs, width), *([nn.LayerNorm(width)] if layer_norm else []), nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))


class Agent:
    """Networks, their optimizer and the flow backend.

    Args:
        obs_size, action_size: O and A.
        backend: a backend of vgf_kernels.torch, or "torch" for the same algorithm in plain eager torch.
        seed: of the initial weights and the training noise.

    Attributes:
        target_seconds: time spent in computing TD targets so far.
    """

    def __init__(self, obs_size: int, action_size: int, backend: str, seed: int) -> None:
        torch.manual_seed(seed)
        self.critic = nn.ModuleList(network(obs_size + action_size, 1, layer_norm=True) for _ in range(2))
        self.target_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self.policy = network(obs_size + action_size + 1, action_size, layer_norm=False)
        parameters = [*self.critic.parameters(), *self.policy.parameters()]
        self.optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE, fused=True)
        self.action_size = action_size
        self.generator = torch.Generator().manual_seed(seed)
        self.target_seconds = 0.0

        if backend == "torch":
            self._act, self._td_target = plain_torch.act, plain_torch.td_target
            self._networks = self.critic, self.target_critic, self.policy
        else:
            import vgf_kernels.torch as vgf

            self._act, self._td_target = (partial(f, backend=backend) for f in (vgf.act, vgf.td_target))
            # Live views: every optimizer step is noticed.
            self._networks = tuple(map(MLP.from_torch, (self.critic, self.target_critic, self.policy)))

    def acting(self, num_steps: int, seed: int) -> Callable[[np.ndarray], np.ndarray]:
        """The policy with a transport budget of num_steps: obs [B, O] -> actions [B, A]. 0 is best-of-N."""
        critic, _, policy = self._networks
        config = FlowConfig(num_steps, TRAIN_CONFIG.learning_rate, TRAIN_CONFIG.alpha)
        generator = torch.Generator().manual_seed(seed)

        def act(obs: np.ndarray) -> np.ndarray:
            noise = torch.randn(len(obs), PARTICLES, self.action_size, generator=generator)
            obs = torch.from_numpy(obs)
            return self._act(critic, policy, obs, noise, EULER_STEPS, config, aggregate=AGGREGATE).numpy()

        return act

    def update(self, batch: Dataset) -> tuple[float, float]:
        """One Adam step of the critics and the velocity field, one Polyak step of the target critics.

        The batch holds tensors. Returns the critic loss and the flow-matching loss.
        """
        obs, actions, rewards, next_obs = batch
        noise = torch.randn(len(obs), PARTICLES, self.action_size, generator=self.generator)
        mask = torch.ones_like(rewards)  # no state is terminal
        start = time.perf_counter()
        target = self._td_target(
            *self._networks, next_obs, noise, REWARD_SCALE * rewards, mask, DISCOUNT, EULER_STEPS, TRAIN_CONFIG,
            aggregate=AGGREGATE,
        )  # fmt: skip
        self.target_seconds += time.perf_counter() - start

        q = plain_torch.value(self.critic, obs, actions[:, None])[..., 0]
        critic_loss = (q - target).square().sum(dim=0).mean()

        x0 = torch.randn(actions.shape, generator=self.generator)
        t = torch.rand(len(obs), 1, generator=self.generator)
        velocity = self.policy(torch.cat([obs, (1 - t) * x0 + t * actions, t], dim=-1))
        flow_loss = (velocity - (actions - x0)).square().mean()

        self.optimizer.zero_grad()
        (critic_loss + flow_loss).backward()
        self.optimizer.step()
        with torch.no_grad():
            for slow, fast in zip(self.target_critic.parameters(), self.critic.parameters()):
                slow.lerp_(fast, TARGET_RATE)
        return critic_loss.item(), flow_loss.item()

    def save(self, path: str, obs: np.ndarray) -> None:
        """Write obs [M, O] and the weights to an npz: critic/0/1/scale is member 0, layer 1, as MLP.from_layers
        names them; likewise policy/0/...
        """
        arrays = {"obs": obs}
        for name, modules in (("critic", self.critic), ("policy", self.policy)):
            for e, member in enumerate(MLP.from_torch(modules).members):
                for i, layer in enumerate(member):
                    fields = layer._asdict().items()
                    arrays |= {f"{name}/{e}/{i}/{key}": a.numpy() for key, a in fields if a is not None}
        np.savez(path, **arrays)
