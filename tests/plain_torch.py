"""The networks and the flow in plain PyTorch, as a user would write them: a truth that shares no code."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F

from vgf_kernels import MLP

ACTIVATIONS = {
    "relu": F.relu,
    "gelu": lambda z: F.gelu(z, approximate="tanh"),
    "gelu_erf": F.gelu,
    "silu": F.silu,
    "mish": F.mish,
    "tanh": torch.tanh,
    "elu": F.elu,
}


def forward(mlp: MLP, x: torch.Tensor) -> torch.Tensor:
    """Every member's output. x [..., in] -> [E, ..., out], in x's dtype."""

    def tensor(array):
        return torch.as_tensor(np.array(array)).to(x.dtype)

    def normed(y, layer):
        return F.layer_norm(y, y.shape[-1:], tensor(layer.scale), tensor(layer.bias), mlp.norm_eps)

    outputs = []
    for layers in mlp.members:
        y = x
        for layer in layers[:-1]:
            y = F.linear(y, tensor(layer.W).T, tensor(layer.b))
            if mlp.norm == "pre":
                y = normed(y, layer)
            y = ACTIVATIONS[mlp.activation](y)
            if mlp.norm == "post":
                y = normed(y, layer)
        outputs.append(F.linear(y, tensor(layers[-1].W).T, tensor(layers[-1].b)))
    return torch.stack(outputs)


def value(critic: MLP, obs: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
    """q [E, B, N], differentiable."""
    b, n, _ = actions.shape
    x = torch.cat([obs[:, None].expand(b, n, -1), actions], dim=-1)
    return forward(critic, x)[..., 0]


def gradient(critic: MLP, obs: torch.Tensor, actions: torch.Tensor, aggregate: str) -> torch.Tensor:
    """dq [B, N, A] by autograd."""
    actions = actions.detach().requires_grad_()
    q = value(critic, obs, actions)
    q = q.amin(dim=0) if aggregate == "min" else q.mean(dim=0)
    (dq,) = torch.autograd.grad(q.sum(), actions)
    return dq


def flow(critic: MLP, obs: torch.Tensor, particles: torch.Tensor, config) -> torch.Tensor:
    """The flow by torch.autograd and torch.optim: phi as minus the gradient of a loss."""
    x = particles.detach().clone()
    make = torch.optim.Adam if config.optimizer == "adam" else torch.optim.SGD
    optimizer = make([x], lr=config.learning_rate)
    for _ in range(config.num_steps):
        dq = gradient(critic, obs, x, config.aggregate)
        x.grad = -direction(x, dq, config)
        optimizer.step()
        if config.clip is not None:
            x.clamp_(*config.clip)
    return x


def direction(x: torch.Tensor, dq: torch.Tensor, config) -> torch.Tensor:
    """phi_i = (1/N) sum_j [k_ij dq_j / alpha + d k_ij / d x_j], the kernel's slope by autograd."""
    n = x.shape[1]
    if config.kernel is None:
        return dq / (config.alpha * n)
    d2 = (x[:, :, None] - x[:, None]).square().sum(-1)
    if config.bandwidth == "median":
        middle = d2.flatten(1).sort(dim=1).values
        middle = (middle[:, (n * n - 1) // 2] + middle[:, n * n // 2]) / 2
        sigma2 = (middle / (2 * math.log(n + 1))).clamp_min(1e-12)
    else:
        sigma2 = torch.full(x.shape[:1], float(config.bandwidth) ** 2, dtype=x.dtype)
    gamma = 1 / (1e-6 + 2 * sigma2)

    def kernel(y):
        d2 = (x[:, :, None] - y[:, None]).square().sum(-1)
        return torch.exp(-gamma[:, None, None] * d2)

    y = x.detach().requires_grad_()
    (attraction,) = torch.autograd.grad(kernel(y).sum(), y)  # up the kernel: towards the other particles
    return (kernel(x) @ dq / config.alpha - attraction) / n
