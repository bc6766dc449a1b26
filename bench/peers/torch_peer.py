"""Plain PyTorch, eager and compiled: what one writes without this library.

The critics are a loop over nn.Sequential modules (on a CPU as fast as one batched product over stacked weights,
or faster), the gradient is torch's own, the bandwidth is held fixed as in the definition, so the repulsion
has its closed form. In bf16 the networks compute in bf16 with weights cast once, the particles stay float32.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from cases import ALPHA, CLIP, DISCOUNT, LEARNING_RATE, NORM_EPS, Case, Data, Layers
from torch import Tensor, nn

from . import EVICT_BYTES, Absent

# ---- the algorithm


def values(critics: nn.ModuleList, obs: Tensor, actions: Tensor) -> Tensor:
    """obs [B, O], actions [B, N, A] -> q [E, B, N]."""
    rows = torch.cat([obs[:, None].expand(-1, actions.shape[1], -1), actions], dim=-1)
    rows = rows.to(critics[0][0].weight.dtype)
    return torch.stack([critic(rows).squeeze(-1).float() for critic in critics])


def action_gradient(critics: nn.ModuleList, obs: Tensor, actions: Tensor) -> Tensor:
    """dq [B, N, A]: by autograd, or by torch.func where torch.compile traces, which takes only that into one graph."""

    def total(actions: Tensor) -> Tensor:
        return values(critics, obs, actions).mean(dim=0).sum()

    if torch.compiler.is_compiling():
        return torch.func.grad(total)(actions)
    with torch.enable_grad():
        actions = actions.detach().requires_grad_()
        return torch.autograd.grad(total(actions), actions)[0]


def direction(x: Tensor, dq: Tensor) -> Tensor:
    """phi [B, N, A] with the RBF kernel and the median bandwidth."""
    n = x.shape[1]
    squares = (x * x).sum(dim=-1)
    d2 = (squares[:, :, None] + squares[:, None, :] - 2 * x @ x.mT).clamp_min(0)
    flat = d2.flatten(1).sort(dim=1).values
    median = (flat[:, (n * n - 1) // 2] + flat[:, n * n // 2]) / 2
    sigma2 = (median / (2 * math.log(n + 1))).clamp_min(1e-12)
    gamma = (1 / (1e-6 + 2 * sigma2))[:, None, None]
    k = torch.exp(-gamma * d2)
    repulsion = 2 * gamma * (k.sum(dim=2, keepdim=True) * x - k @ x)
    return (k @ dq / ALPHA + repulsion) / n


def flow(critics: nn.ModuleList, obs: Tensor, x: Tensor, steps: int) -> Tensor:
    first, second = torch.zeros_like(x), torch.zeros_like(x)
    for step in range(1, steps + 1):
        gradient = -direction(x, action_gradient(critics, obs, x))
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient * gradient
        update = (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
        x = (x - LEARNING_RATE * update).clamp(*CLIP)
    return x


def sample(policy: nn.Sequential, obs: Tensor, x: Tensor, steps: int) -> Tensor:
    dtype = policy[0].weight.dtype
    obs = obs[:, None].expand(-1, x.shape[1], -1)
    for i in range(steps):
        time = torch.full_like(x[..., :1], i / steps)
        x = x + policy(torch.cat([obs, x, time], dim=-1).to(dtype)).float() / steps
    return x.clamp(*CLIP)


def act(critics, policy, obs: Tensor, noise: Tensor, euler_steps: int, flow_steps: int) -> Tensor:
    x = flow(critics, obs, sample(policy, obs, noise, euler_steps), flow_steps)
    best = values(critics, obs, x).amin(dim=0).argmax(dim=1)
    return x[torch.arange(x.shape[0], device=x.device), best]


def td_target(
    critics, targets, policy, obs: Tensor, noise: Tensor, reward: Tensor, mask: Tensor, euler_steps: int, flow_steps: int
) -> Tensor:  # fmt: skip
    x = flow(critics, obs, sample(policy, obs, noise, euler_steps), flow_steps)
    q = values(targets, obs, x).amin(dim=0)
    return reward + DISCOUNT * mask * q.mean(dim=1)


# ---- the contestant


class TorchDevice:
    """What contestants on torch tensors share."""

    def __init__(self, device: str, precision: str) -> None:
        if device == "cuda" and not torch.cuda.is_available():
            raise Absent("torch finds no CUDA device")
        self.device = device
        self.precision = precision
        torch.set_grad_enabled(False)
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        self._evict = torch.empty(EVICT_BYTES if device == "cuda" else 0, dtype=torch.uint8, device=device)

    def network(self, layers: Layers, activation: str) -> nn.Sequential:
        modules: list[nn.Module] = []
        for i, layer in enumerate(layers):
            inner, outer = layer["W"].shape
            linear = nn.Linear(inner, outer)
            linear.weight.copy_(torch.from_numpy(layer["W"]).t())
            linear.bias.copy_(torch.from_numpy(layer["b"]))
            modules.append(linear)
            if "scale" in layer:
                norm = nn.LayerNorm(outer, eps=NORM_EPS)
                norm.weight.copy_(torch.from_numpy(layer["scale"]))
                norm.bias.copy_(torch.from_numpy(layer["bias"]))
                modules.append(norm)
            if i + 1 < len(layers):
                modules.append(nn.ReLU() if activation == "relu" else nn.GELU(approximate="tanh"))
        return nn.Sequential(*modules).requires_grad_(False).to(self.device)

    def networks(self, members: list[Layers], activation: str) -> nn.ModuleList:
        return nn.ModuleList([self.network(layers, activation) for layers in members])

    def tensors(self, data: Data, states: slice) -> dict[str, Tensor]:
        return {name: torch.from_numpy(array[states]).to(self.device) for name, array in data.arrays.items()}

    def wait(self, output: Tensor) -> Tensor:
        if self.device == "cuda":
            torch.cuda.synchronize()
        return output

    def fetch(self, output: Tensor) -> np.ndarray:
        return output.float().cpu().numpy()

    def capture(self, call):
        """A function that replays the call as a CUDA graph. Raises Absent."""
        if self.device != "cuda":
            raise Absent("CUDA graphs need a GPU")
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):  # what is set up once must not be captured
            call()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output = call()

        def replay() -> Tensor:
            graph.replay()
            return output

        return replay

    def evict(self) -> None:
        if self.device == "cuda":
            self._evict.zero_()
            torch.cuda.synchronize()

    def describe(self) -> dict:
        about = {"torch": torch.__version__, "threads": torch.get_num_threads()}
        if self.device == "cuda":
            about |= {"cuda": torch.version.cuda, "gpu": torch.cuda.get_device_name()}
        return about


class Peer(TorchDevice):
    def __init__(self, name: str, device: str, precision: str) -> None:
        super().__init__(device, precision)
        if name == "torch":
            self.mode = None
        elif name == "torch.compile-graphs":
            self.mode = "reduce-overhead"  # CUDA graphs, without what max-autotune takes to compile
        else:
            self.mode = "max-autotune" if device == "cuda" else "default"  # no faster on a CPU

    def capture(self, call):
        if self.mode:
            raise Absent(f"mode {self.mode} captures graphs itself")
        return super().capture(call)

    def prepare(self, case: Case, data: Data, slices: list[slice]) -> list:
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
        members = (data.critic, data.target_critic, data.policy)
        critics, targets, policies = (self.networks(m, case.activation).to(dtype) for m in members)
        policy = policies[0]

        def run(a: dict[str, Tensor]) -> Tensor:
            if case.function == "flow":
                return flow(critics, a["obs"], a["particles"], case.flow_steps)
            if case.function == "sample":
                return sample(policy, a["obs"], a["noise"], case.euler_steps)
            steps = (case.euler_steps, case.flow_steps)
            if case.function == "act":
                return act(critics, policy, a["obs"], a["noise"], *steps)
            return td_target(critics, targets, policy, a["obs"], a["noise"], a["reward"], a["mask"], *steps)

        if self.mode:
            torch.compiler.reset()
            run = torch.compile(run, fullgraph=True, dynamic=False, mode=self.mode)
        inputs = [self.tensors(data, states) for states in slices]
        return [lambda a=a: run(a) for a in inputs]
