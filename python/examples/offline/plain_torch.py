"""VGF in plain eager torch: the code that `vgf_kernels.torch` replaces, with the same names and arguments.

Critics are lists of modules, the policy is one module. Only what the example needs: Adam, the RBF kernel with the
median bandwidth, the best particle, the mean target.
"""

from __future__ import annotations

import math

import torch


def value(critic, obs, actions):
    """q [E, B, N] of obs [B, O] and actions [B, N, A]."""
    x = torch.cat([obs[:, None].expand(-1, actions.shape[1], -1), actions], dim=-1)
    return torch.stack([member(x)[..., 0] for member in critic])


def reduce_ensemble(q, aggregate):
    """[E, B, N] -> [B, N]."""
    return q.amin(dim=0) if aggregate == "min" else q.mean(dim=0)


def direction(critic, obs, particles, config):
    """The SVGD direction [B, N, A]: kernel-smoothed value gradient plus repulsion."""
    with torch.enable_grad():
        x = particles.detach().requires_grad_()
        (dq,) = torch.autograd.grad(reduce_ensemble(value(critic, obs, x), config.aggregate).sum(), x)
    n = particles.shape[1]
    difference = particles[:, :, None] - particles[:, None]
    d2 = difference.square().sum(dim=-1)
    h = torch.quantile(d2.flatten(1), 0.5, dim=1) / (2 * math.log(n + 1))
    gamma = 1 / (1e-6 + 2 * h.clamp(min=1e-12))[:, None, None]
    k = torch.exp(-gamma * d2)
    repulsion = 2 * gamma * (k[..., None] * difference).sum(dim=2)
    return (k @ dq / config.alpha + repulsion) / n


def flow(critic, obs, particles, config):
    """num_steps Adam steps along the direction, clipped after each."""
    particles = particles.clone()
    gradient = particles.grad = torch.zeros_like(particles)
    optimizer = torch.optim.Adam([particles], lr=config.learning_rate)
    for _ in range(config.num_steps):
        gradient.copy_(-direction(critic, obs, particles, config))
        optimizer.step()
        particles.clamp_(*config.clip)
    return particles.detach()


def sample(policy, obs, noise, num_steps, clip):
    """Euler on the velocity field: noise [B, N, A] -> particles [B, N, A]."""
    x = noise
    obs = obs[:, None].expand(-1, noise.shape[1], -1)
    for i in range(num_steps):
        t = torch.full_like(x[..., :1], i / num_steps)
        x = x + policy(torch.cat([obs, x, t], dim=-1)) / num_steps
    return x.clamp(*clip)


@torch.no_grad()
def act(critic, policy, obs, noise, euler_steps, config, aggregate):
    """The action of the highest value after the flow, [B, A]."""
    particles = flow(critic, obs, sample(policy, obs, noise, euler_steps, config.clip), config)
    best = reduce_ensemble(value(critic, obs, particles), aggregate).argmax(dim=1)
    return particles[torch.arange(len(obs)), best]


@torch.no_grad()
def td_target(
    critic, target_critic, policy, next_obs, noise, reward, mask, discount, euler_steps, config, aggregate
):
    """reward + discount * mask * mean over the particles of the target critic's value, [B]."""
    particles = flow(critic, next_obs, sample(policy, next_obs, noise, euler_steps, config.clip), config)
    q = reduce_ensemble(value(target_critic, next_obs, particles), aggregate).mean(dim=1)
    return reward + discount * mask * q
