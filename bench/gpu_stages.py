"""What a call on a GPU is made of: value, gradient, flow with and without its kernel, sampling and action, alone, at several
batch sizes. The paper's networks, N = 10, 3 flow steps, 10 Euler steps; medians of replays of a CUDA graph.

    python bench/gpu_stages.py --out FILE [--backend cuda] [--precision bf16] [--norm post] [--states 1 256 10560]

Writes milliseconds to a JSON file and prints a line a batch size. `--device cpu` times calls on the CPU engine, to test this file.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from cases import CASES, as_mlp, make_data
from machine import describe_machine
from peers import Absent
from peers.torch_peer import TorchDevice

import vgf_kernels.torch as vgf
from vgf_kernels.engines import resolve

STATES = (1, 20, 64, 128, 256, 1024, 10_560)
REPLAYS = 20


def stages(states: int, norm: str, device: str, settings: dict) -> dict[str, Callable]:
    """The calls, by name."""
    case = replace(next(c for c in CASES if c.name == "act-B1-K10-L3"), states=states, batch=states)
    data = make_data(case)
    critic, policy = (as_mlp(members, case.activation, norm).freeze() for members in (data.critic, data.policy))
    obs, noise = (torch.from_numpy(data.arrays[name]).to(device) for name in ("obs", "noise"))
    x, config, alone = noise.clamp(-1, 1), case.config, replace(case.config, kernel=None)
    return {
        "value": lambda: vgf.value(critic, obs, x, **settings),
        "value and gradient": lambda: vgf.value_and_grad(critic, obs, x, **settings)[1],
        "flow": lambda: vgf.flow(critic, obs, x, config, **settings),
        "flow without kernel": lambda: vgf.flow(critic, obs, x, alone, **settings),
        "sample": lambda: vgf.sample(policy, obs, noise, case.euler_steps, **settings),
        "act": lambda: vgf.act(critic, policy, obs, noise, case.euler_steps, config, **settings),
    }


def milliseconds(call: Callable, on: TorchDevice) -> float:
    """Of the median replay, or call."""
    replay = on.capture(call) if on.device == "cuda" else call
    on.wait(replay())
    taken = []
    for _ in range(REPLAYS):
        start = time.perf_counter()
        on.wait(replay())
        taken.append(time.perf_counter() - start)
    return 1e3 * statistics.median(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="the JSON file")
    parser.add_argument("--backend", choices=("cuda", "triton", "cpu"), default="cuda", help="the engine; default: cuda")
    parser.add_argument("--precision", choices=("fp32", "tf32", "bf16"), default="bf16", help="in which it computes; default: bf16")
    parser.add_argument(
        "--norm", choices=("pre", "post"), default="pre",
        help="before the activation or after it, where Hopper, too, takes the general kernels; default: pre",
    )  # fmt: skip
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="where; default: cuda")
    parser.add_argument("--states", type=int, nargs="+", default=STATES, help=f"batch sizes; default: {STATES}")
    options = parser.parse_args()
    if min(options.states) < 1:
        parser.error(f"--states: expected at least 1, got {min(options.states)}")
    try:
        on = TorchDevice(options.device, options.precision)
        resolve(options.backend, options.device, "float32", options.precision)
    except (Absent, RuntimeError, ValueError) as reason:
        parser.error(str(reason))
    settings = {"backend": options.backend, "precision": options.precision}
    record = {"machine": describe_machine() | on.describe(), **settings, "norm": options.norm, "milliseconds": {}}
    for states in options.states:
        calls = stages(states, options.norm, options.device, settings)
        found = {name: milliseconds(call, on) for name, call in calls.items()}
        record["milliseconds"][states] = found
        print(f"{states:>7} states: " + ", ".join(f"{name} {ms:.3f}" for name, ms in found.items()), flush=True)
        options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
