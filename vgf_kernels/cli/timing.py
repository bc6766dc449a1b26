"""The demo's timing: one flow at the paper's network size, against the same in eager PyTorch."""

from __future__ import annotations

import math
import time

import torch

from .. import torch as vgf
from ..config import FlowConfig
from ..mlp import MLP

B, N, O, A = 64, 10, 17, 6
ENSEMBLE, DEPTH, WIDTH = 2, 4, 512
CONFIG = FlowConfig(num_steps=3)
ROUNDS = 7  # odd


def compare(backend: str, progress) -> str:
    """Check that both agree, time them in alternating rounds, and say the outcome.

    Args:
        backend: the engine of vgf_kernels.torch.
        progress: wraps the range of rounds, as tqdm does.

    Raises:
        RuntimeError: the two do not agree.
    """
    torch.manual_seed(0)
    nets = [_net().requires_grad_(False) for _ in range(ENSEMBLE)]
    critic = MLP.from_torch(nets)
    obs, particles = torch.randn(B, O), torch.rand(B, N, A) * 2 - 1

    def ours():
        return vgf.flow(critic, obs, particles, CONFIG, backend=backend)

    def eager():
        return eager_flow(nets, obs, particles, CONFIG)

    _check_agreement(ours(), eager())
    times = [(_seconds(ours), _seconds(eager)) for _ in progress(range(ROUNDS))]
    by_ratio = sorted(times, key=lambda pair: pair[1] / pair[0])
    low, middle, high = (by_ratio[i][1] / by_ratio[i][0] for i in (0, ROUNDS // 2, -1))
    mine, peer = by_ratio[ROUNDS // 2]
    return (
        f"flow of {ENSEMBLE} critics {DEPTH} x {WIDTH} with layer norm, B={B} N={N} L={CONFIG.num_steps}, "
        f"{torch.get_num_threads()} threads: {1e3 * mine:.1f} ms, eager torch {1e3 * peer:.1f} ms, "
        f"{middle:.2f} times as fast\n"
        f"        (median of {ROUNDS} alternating rounds, {low:.2f} to {high:.2f}; unreliable under load)"
    )


def _net() -> torch.nn.Sequential:
    layers: list[torch.nn.Module] = []
    width = O + A
    for _ in range(DEPTH):
        layers += [torch.nn.Linear(width, WIDTH), torch.nn.LayerNorm(WIDTH), torch.nn.ReLU()]
        width = WIDTH
    return torch.nn.Sequential(*layers, torch.nn.Linear(width, 1))


def _seconds(function) -> float:
    function()  # the threads of the one before have settled when this returns
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _check_agreement(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    # Adam makes a full step of a tiny gradient, whose sign is then round-off: a few elements may differ.
    share = ((ours - theirs).abs() < 1e-3).float().mean().item()
    if share < 0.99:
        raise RuntimeError(
            f"the engine and eager torch agree on {share:.1%} of the particles' elements only, expected 99%"
        )


def eager_flow(critics, obs: torch.Tensor, particles: torch.Tensor, config: FlowConfig) -> torch.Tensor:
    """The flow in plain PyTorch: RBF kernel, median bandwidth, mean over critics, Adam. -> [B, N, A]."""
    x = particles.clone()
    repeated = obs[:, None].expand(-1, x.shape[1], -1)
    optimizer = torch.optim.Adam([x], lr=config.learning_rate)
    for _ in range(config.num_steps):
        x.requires_grad_()
        inputs = torch.cat([repeated, x], dim=-1)
        q = torch.stack([net(inputs) for net in critics]).mean(dim=0)
        (dq,) = torch.autograd.grad(q.sum(), x)
        x.requires_grad_(False)
        x.grad = -_direction(x, dq, config)
        optimizer.step()
        if config.clip is not None:
            x.clamp_(*config.clip)
    return x


def _direction(x: torch.Tensor, dq: torch.Tensor, config: FlowConfig) -> torch.Tensor:
    n = x.shape[1]
    d2 = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").square()
    h = torch.quantile(d2.flatten(1), 0.5, dim=1) / (2 * math.log(n + 1))
    gamma = (1 / (1e-6 + 2 * h.clamp_min(1e-12)))[:, None, None]
    k = torch.exp(-gamma * d2)
    repulsion = 2 * gamma * (k.sum(dim=2, keepdim=True) * x - k @ x)
    return (k @ dq / config.alpha + repulsion) / n
