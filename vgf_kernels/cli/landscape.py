"""The demo's toy problem: critics with several peaks over two-dimensional actions, a policy off the peaks."""

from __future__ import annotations

import numpy as np

from ..mlp import MLP

# Height, centre and width of the Gaussian bumps the critics learn, over actions in [-1, 1]^2.
HEIGHTS = np.array([1.0, 0.8, 0.65, 0.45])
CENTRES = np.array([[0.55, 0.55], [-0.6, 0.5], [0.5, -0.6], [-0.55, -0.6]])
WIDTHS = np.array([0.26, 0.24, 0.24, 0.22])

# The reference policy: two blobs of behaviour between the peaks.
BEHAVIOUR = np.array([[-0.3, 0.05], [0.22, -0.1]])
BEHAVIOUR_STD = 0.12

HIDDEN = 256
OBS = np.zeros((1, 1), np.float32)  # one state, B = 1, O = 1: the landscape does not depend on it


def true_value(actions: np.ndarray) -> np.ndarray:
    """The value the critics are fitted to. actions [..., 2] -> [...]."""
    d2 = ((actions[..., None, :] - CENTRES) ** 2).sum(-1)
    return (HEIGHTS * np.exp(-d2 / (2 * WIDTHS**2))).sum(-1)


def fit_critics(rng: np.random.Generator, ensemble: int = 2) -> MLP:
    """Critics of one tanh hidden layer: random features, last layer solved by ridge regression. float32."""
    actions = rng.uniform(-1.3, 1.3, (4000, 2))
    members = []
    for _ in range(ensemble):
        w, b = rng.normal(0, 2.5, (2, HIDDEN)), rng.uniform(-3, 3, HIDDEN)
        features = np.column_stack([np.tanh(actions @ w + b), np.ones(len(actions))])
        gram = features.T @ features + 1e-3 * np.eye(HIDDEN + 1)
        solution = np.linalg.solve(gram, features.T @ true_value(actions))
        first = {"W": np.vstack([np.zeros((1, HIDDEN)), w]), "b": b}  # the first input is the observation
        last = {"W": solution[:-1, None], "b": solution[-1:]}
        members.append([{k: v.astype(np.float32) for k, v in layer.items()} for layer in (first, last)])
    return MLP.from_layers(members, activation="tanh")


def draw_reference(rng: np.random.Generator, count: int) -> np.ndarray:
    """Actions of the reference policy, half from each blob: [1, count, 2] float32."""
    centres = BEHAVIOUR[np.arange(count) % len(BEHAVIOUR)]
    actions = centres + BEHAVIOUR_STD * rng.normal(size=(count, 2))
    return np.clip(actions, -1, 1)[None].astype(np.float32)
