"""This library, through its torch frontend."""

from __future__ import annotations

import os

from cases import Case, Data, arguments

import vgf_kernels
import vgf_kernels.torch as vgf
from vgf_kernels import MLP

from . import Absent
from .torch_peer import TorchDevice


class Peer(TorchDevice):
    def __init__(self, name: str, device: str, precision: str) -> None:
        super().__init__(device, precision)
        engines = vgf_kernels.backends()
        gpu_engines = [name for name in ("cuda", "triton") if engines[name].available] or ["cuda"]
        chosen = os.environ.get("VGF_BACKEND") or gpu_engines[0]
        self.backend = chosen if device == "cuda" else "cpu"
        if not engines[self.backend].available:
            raise Absent(f"engine {self.backend}: {engines[self.backend].detail}")

    def describe(self) -> dict:
        engine = vgf_kernels.backends()[self.backend]
        return super().describe() | {
            "vgf_kernels": vgf_kernels.__version__,
            "engine": self.backend,
            "isa": engine.detail,
        }

    def prepare(self, case: Case, data: Data, slices: list[slice]) -> list:
        """The networks are live views of torch modules, as in training; those of `act` are frozen, as in serving."""
        members = (data.critic, data.target_critic, data.policy)
        mlps = [MLP.from_torch(self.networks(m, case.activation)) for m in members]
        if case.function == "act":
            mlps = [mlp.freeze() for mlp in mlps]
        function = getattr(vgf, case.function)
        calls = []
        for states in slices:
            positional, keywords = arguments(case, *mlps, self.tensors(data, states))
            keywords |= {"backend": self.backend, "precision": self.precision}
            calls.append(lambda p=positional, k=keywords: function(*p, **k))
        return calls
