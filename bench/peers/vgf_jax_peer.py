"""This library, through its JAX frontend: jitted, with the parameters as arguments, as in training.

So every call packs its networks; those of `act` are packed before, as in serving.
"""

from __future__ import annotations

import os

import jax
from cases import Case, Data, arguments, as_mlp

import vgf_kernels
import vgf_kernels.jax as vgf

from . import Absent, jax_peer


class Peer(jax_peer.Peer):
    def __init__(self, name: str, device: str, precision: str) -> None:
        super().__init__(name, device, "fp32")  # in which JAX itself computes
        self.engine = vgf_kernels.backends()[device]
        if not self.engine.available:
            raise Absent(f"the {device} engine: {self.engine.detail}")
        if os.environ.get("VGF_BACKEND") == "triton":
            raise Absent("the JAX frontend has no triton engine")
        self.precision = precision

    def describe(self) -> dict:
        return super().describe() | {"vgf_kernels": vgf_kernels.__version__, "isa": self.engine.detail}

    def prepare(self, case: Case, data: Data, slices: list[slice]) -> list:
        networks = [
            jax.device_put(vgf.Network.from_mlp(as_mlp(members, case.activation)))
            for members in (data.critic, data.target_critic, data.policy)
        ]
        if case.function == "act":
            observations = data.arrays["obs"].shape[1]
            networks = [
                vgf.pack(network, role=role, observations=observations, precision=self.precision)
                for network, role in zip(networks, ("critic", "critic", "policy"))
            ]

        @jax.jit
        def run(networks, arrays):
            positional, keywords = arguments(case, *networks, arrays)
            return getattr(vgf, case.function)(*positional, **keywords, precision=self.precision)

        inputs = [jax.device_put({k: a[states] for k, a in data.arrays.items()}) for states in slices]
        return [lambda a=a: run(networks, a) for a in inputs]
