"""This library, through its JAX frontend: jitted, with the parameters as arguments, as in training.

So every call packs its networks; those of `act` are packed before, as in serving.
"""

from __future__ import annotations

import jax
from cases import Case, Data, arguments, as_mlp

import vgf_kernels
import vgf_kernels.jax as vgf

from . import Absent, jax_peer


class Peer(jax_peer.Peer):
    def __init__(self, name: str, device: str, precision: str) -> None:
        super().__init__(name, device, "fp32")  # in which JAX itself computes
        if device != "cpu":
            raise Absent("the JAX frontend has no CUDA handlers")
        self.precision = precision

    def describe(self) -> dict:
        engine = vgf_kernels.backends()["cpu"]
        return super().describe() | {"vgf_kernels": vgf_kernels.__version__, "isa": engine.detail}

    def prepare(self, case: Case, data: Data, slices: list[slice]) -> list:
        networks = [
            jax.device_put(vgf.Network.from_mlp(as_mlp(members, case.activation)))
            for members in (data.critic, data.target_critic, data.policy)
        ]
        if case.function == "act":
            networks = [vgf.pack(network, precision=self.precision) for network in networks]

        @jax.jit
        def run(networks, arrays):
            positional, keywords = arguments(case, *networks, arrays)
            return getattr(vgf, case.function)(*positional, **keywords, precision=self.precision)

        inputs = [jax.device_put({k: a[states] for k, a in data.arrays.items()}) for states in slices]
        return [lambda a=a: run(networks, a) for a in inputs]
