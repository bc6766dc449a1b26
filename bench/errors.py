"""The error of bfloat16 against float64, ours beside eager torch's, on the same inputs, as a table for bench/README.md.

python bench/errors.py
"""

from __future__ import annotations

import numpy as np
import torch
from cases import CASES, LEARNING_RATE, Case, as_mlp, make_data
from peers import torch_peer

import vgf_kernels.torch as vgf
from vgf_kernels import MLP, reference

CASE = next(case for case in CASES if case.name == "flow-L3")
AGREES = 0.1  # of one step of the flow: an element that moved the same way


def truth(case: Case, data) -> dict[str, np.ndarray]:
    """In float64, by the definition."""
    data = data.astype(np.float64)
    critic, obs, x = as_mlp(data.critic, case.activation), data.arrays["obs"], data.arrays["particles"]
    q, dq = reference.value_and_grad(critic, obs, x)
    phi = reference.direction(critic, obs, x, case.config)
    return {"q": q[..., None], "dq": dq, "phi": phi, "flow": reference.flow(critic, obs, x, case.config)}


def ours(critic: MLP, obs, x, config, precision: str) -> dict[str, np.ndarray]:
    q, dq = vgf.value_and_grad(critic, obs, x, backend="cpu", precision=precision)
    phi = vgf.direction(critic, obs, x, config, backend="cpu", precision=precision)
    moved = vgf.flow(critic, obs, x, config, backend="cpu", precision=precision)
    return {"q": q[..., None].numpy(), "dq": dq.numpy(), "phi": phi.numpy(), "flow": moved.numpy()}


def eager(critics, obs, x, config) -> dict[str, np.ndarray]:
    dq = torch_peer.action_gradient(critics, obs, x)
    moved = torch_peer.flow(critics, obs, x, config.num_steps)
    q, phi = torch_peer.values(critics, obs, x), torch_peer.direction(x, dq)
    return {"q": q[..., None].numpy(), "dq": dq.numpy(), "phi": phi.numpy(), "flow": moved.numpy()}


def median_error(got: np.ndarray, exact: np.ndarray) -> float:
    """Of the particles' errors, over the root mean square of what is exact: the few particles on an edge of a relu, where
    any round-off changes the gradient by a jump, do not count."""
    off, size = (np.linalg.norm(a, axis=-1) for a in (got - exact, exact))
    return float(np.median(off) / np.sqrt(np.mean(size**2)))


def main() -> None:
    data = make_data(CASE)
    exact = truth(CASE, data)
    device = torch_peer.TorchDevice("cpu", "bf16")
    networks = device.networks(data.critic, CASE.activation)
    critic = MLP.from_torch(networks).freeze()
    obs, x = (torch.from_numpy(data.arrays[name]) for name in ("obs", "particles"))
    rows = {
        "vgf-kernels bf16": ours(critic, obs, x, CASE.config, "bf16"),
        "eager torch bf16": eager(
            device.networks(data.critic, CASE.activation).bfloat16(), obs, x, CASE.config
        ),
        "vgf-kernels fp32": ours(critic, obs, x, CASE.config, "fp32"),
        "eager torch fp32": eager(networks, obs, x, CASE.config),
    }
    print("| | q | dq | phi | flow elements that agree |\n|---|---|---|---|---|")
    for name, got in rows.items():
        errors = " | ".join(f"{median_error(got[key], exact[key]):.1e}" for key in ("q", "dq", "phi"))
        agree = np.mean(np.abs(got["flow"] - exact["flow"]) <= AGREES * LEARNING_RATE)
        print(f"| {name} | {errors} | {agree:.2%} |")


if __name__ == "__main__":
    main()
