"""The golden cases: float32 inputs and the float64 outputs of the definition, one `.npz` a case."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vgf_kernels import MLP, FlowConfig

FOLDER = Path(__file__).parent / "golden"
NAMES = sorted(path.stem for path in FOLDER.glob("*.npz"))

# the stored output and the settings that make it
FLOWS = {
    "flow": {},
    "flow_through_bandwidth": {"bandwidth_grad": True},
    "flow_no_kernel": {"kernel": None},
    "flow_fixed_bandwidth": {"bandwidth": None},  # None: the case's own float, see `flow_config`
}
DIRECTIONS = {"phi": {}, "phi_through_bandwidth": {"bandwidth_grad": True}}


@dataclass(frozen=True)
class Golden:
    """One case: its settings `meta` and its arrays by name."""

    meta: dict[str, Any]
    arrays: dict[str, np.ndarray]

    def array(self, name: str, dtype=np.float64) -> np.ndarray:
        return self.arrays[name].astype(dtype)

    def critic(self, dtype=np.float64) -> MLP:
        members = [self._layers(f"critic.{e}", dtype) for e in range(self.meta["num_critics"])]
        return self._mlp(members, "pre" if self.meta["layer_norm"] else "none")

    def policy(self, dtype=np.float64) -> MLP:
        return self._mlp([self._layers("policy", dtype)], "none")

    def flow_config(self, **changes) -> FlowConfig:
        if changes.get("bandwidth", "") is None:
            changes = {**changes, "bandwidth": self.meta["fixed_bandwidth"]}
        meta = self.meta
        settings = {key: meta[key] for key in ("num_steps", "learning_rate", "alpha", "aggregate")}
        return FlowConfig(**settings, clip=(meta["low"], meta["high"]), **changes)

    def _mlp(self, members, norm: str) -> MLP:
        return MLP.from_layers(
            members, activation=self.meta["activation"], norm=norm, norm_eps=self.meta["layer_norm_eps"]
        )

    def _layers(self, prefix: str, dtype) -> list[dict[str, np.ndarray]]:
        layers: list[dict[str, np.ndarray]] = []
        while f"{prefix}.{len(layers)}.W" in self.arrays:
            here = f"{prefix}.{len(layers)}."
            layers.append(
                {key[len(here) :]: a.astype(dtype) for key, a in self.arrays.items() if key.startswith(here)}
            )
        return layers


def load(name: str) -> Golden:
    with np.load(FOLDER / f"{name}.npz") as stored:
        arrays = {key: stored[key] for key in stored.files}
    return Golden(json.loads(str(arrays.pop("meta"))), arrays)
