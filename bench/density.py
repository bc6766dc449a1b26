"""How many hidden units are on: what decides how much of a product an engine may leave out."""

from __future__ import annotations

import numpy as np
from cases import Case, Data, as_mlp

from vgf_kernels.reference.mlp import forward_with_tape


def density(case: Case, data: Data) -> dict[str, float]:
    """For each network of the case, the share of hidden units that some particle of a state switches on.

    It is the mean over states and hidden layers, for the particles the case starts from. Empty where the activation is
    not relu: its units are never off.
    """
    if case.activation != "relu":
        return {}
    data = data.of_states(case.checked())
    start = data.arrays.get("particles", data.arrays.get("noise"))
    networks = {} if case.function == "sample" else {"critic": data.critic}
    if case.function != "flow":
        networks["policy"] = data.policy
    return {name: _share(members, data.arrays["obs"], start) for name, members in networks.items()}


def _share(members, obs: np.ndarray, start: np.ndarray) -> float:
    states, particles, _ = start.shape
    mlp = as_mlp(members, "relu")
    inputs = np.concatenate([np.repeat(obs[:, None], particles, axis=1), start], axis=-1)
    missing = mlp.widths[0] - inputs.shape[-1]  # a velocity field takes the time too: 0 at the start
    inputs = np.pad(inputs, ((0, 0), (0, 0), (0, missing))).reshape(states * particles, -1)
    shares = []
    for member in mlp.members:
        _, tape = forward_with_tape(list(member), inputs, mlp.activation, mlp.norm, mlp.norm_eps)
        shares += [(slope > 0).reshape(states, particles, -1).any(axis=1).mean() for slope, _ in tape]
    return float(np.mean(shares))
