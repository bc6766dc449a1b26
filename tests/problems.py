"""Random problems: networks, states, particles and noise of any size, from a seed."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from vgf_kernels import MLP
from vgf_kernels.reference.activations import activate
from vgf_kernels.reference.mlp import layer_norm


@dataclass(frozen=True)
class Problem:
    """Float32 inputs of every function. `at(np.float64)` is the same problem, exactly, in float64."""

    critic: MLP
    target_critic: MLP
    policy: MLP
    obs: np.ndarray  # [B, O]
    particles: np.ndarray  # [B, N, A]
    noise: np.ndarray  # [B, N, A]
    select_noise: np.ndarray  # [B, N], uniform in (0, 1)
    reward: np.ndarray  # [B]
    mask: np.ndarray  # [B]

    def at(self, dtype) -> Problem:
        """The same problem in another float dtype."""
        return self._map(
            lambda mlp: change_layers(mlp, lambda layers: cast(layers, dtype)), lambda a: a.astype(dtype)
        )

    def reordered(self, seed: int) -> Problem:
        """The same functions with the hidden units in another order: other round-off, equal otherwise."""
        return self._map(lambda mlp: reordered(mlp, seed), lambda a: a)

    def rounded(self, round_off: float, seed: int) -> Problem:
        """The same problem with every matrix in a format of this round-off, each number at random to one of its neighbours."""
        return self._map(lambda mlp: rounded(mlp, round_off, seed), lambda a: a)

    def _map(self, on_mlp, on_array) -> Problem:
        fields = self.__dict__.items()
        return Problem(**{key: on_mlp(v) if isinstance(v, MLP) else on_array(v) for key, v in fields})


def make_problem(
    *,
    B=3,
    N=7,
    A=3,
    O=5,
    E=2,
    hidden=(33, 17),
    activation="relu",
    norm="pre",
    seed=0,
    bound=1.0,
) -> Problem:
    """A problem of the given sizes. Observations are normal, particles uniform within +-bound.

    No particle lies on an edge of the critic, where float32 and float64 may rightly take different sides.
    """
    rng = np.random.default_rng(seed)
    f32 = np.float32
    critic = make_mlp(rng, (O + A, *hidden, 1), E, activation, norm)
    obs = rng.normal(size=(B, O)).astype(f32)
    particles = rng.uniform(-bound, bound, (B, N, A)).astype(f32)
    while (edge := on_an_edge(critic, obs, particles)).any():
        particles[edge] = rng.uniform(-bound, bound, (edge.sum(), A))
    return Problem(
        critic=critic,
        target_critic=make_mlp(rng, (O + A, *hidden, 1), E, activation, norm),
        policy=make_mlp(rng, (O + A + 1, *hidden, A), 1, activation, "none"),
        obs=obs,
        particles=particles,
        noise=rng.normal(size=(B, N, A)).astype(f32),
        select_noise=rng.uniform(0.01, 0.99, (B, N)).astype(f32),
        reward=rng.normal(size=B).astype(f32),
        mask=(rng.uniform(size=B) < 0.7).astype(f32),
    )


def make_mlp(rng, widths, ensemble: int, activation: str, norm: str) -> MLP:
    """An MLP with weights of variance 1/in and norm parameters away from 1 and 0, in float32."""
    members = [make_layers(rng, widths, norm) for _ in range(ensemble)]
    return MLP.from_layers(members, activation=activation, norm=norm, norm_eps=1e-5)


def make_layers(rng, widths, norm: str) -> list[dict[str, np.ndarray]]:
    layers = []
    for i, (inner, outer) in enumerate(itertools.pairwise(widths)):
        layer = {
            "W": rng.normal(size=(inner, outer)) * np.sqrt(2 / inner),
            "b": rng.normal(size=outer) * 0.3,
        }
        if norm != "none" and i + 2 < len(widths):
            layer |= {"scale": rng.uniform(0.5, 1.5, outer), "bias": rng.normal(size=outer) * 0.3}
        layers.append({key: a.astype(np.float32) for key, a in layer.items()})
    return layers


def on_an_edge(critic: MLP, obs: np.ndarray, particles: np.ndarray) -> np.ndarray:
    """Where the gradient jumps within round-off: a relu input near 0, or two critics nearly tied. [B, N]."""
    near = 1e-5
    b, n, _ = particles.shape
    x = np.concatenate([np.repeat(obs[:, None], n, axis=1), particles], axis=-1).astype(np.float64)
    edge = np.zeros((b, n), bool)
    q = []
    for layers in critic.members:
        y = x
        for layer in layers[:-1]:
            y = y @ layer.W + layer.b
            if critic.norm == "pre":
                y = layer_norm(y, layer, critic.norm_eps)[0]
            if critic.activation == "relu":
                edge |= (np.abs(y) < near).any(axis=-1)
            y = activate(critic.activation, y)[0]
            if critic.norm == "post":
                y = layer_norm(y, layer, critic.norm_eps)[0]
        q.append((y @ layers[-1].W + layers[-1].b)[..., 0])
    gaps = np.diff(np.sort(q, axis=0), axis=0)
    return edge | (gaps[:1] < near * np.abs(q).max()).any(axis=0)


def layers_of(mlp: MLP) -> list[list[dict[str, np.ndarray]]]:
    """The weights as `MLP.from_layers` takes them."""
    return [
        [{key: a for key, a in layer._asdict().items() if a is not None} for layer in member]
        for member in mlp.members
    ]


def change_layers(mlp: MLP, change) -> MLP:
    """A new MLP with `change` applied to the layer list of every member."""
    members = [change(layers) for layers in layers_of(mlp)]
    return MLP.from_layers(members, activation=mlp.activation, norm=mlp.norm, norm_eps=mlp.norm_eps)


def cast(layers, dtype):
    return [{key: a.astype(dtype) for key, a in layer.items()} for layer in layers]


def reordered(mlp: MLP, seed: int) -> MLP:
    """The same MLP with the units of every hidden layer in another order."""
    rng = np.random.default_rng(seed)

    def shuffle(layers):
        changed = [dict(layer) for layer in layers]
        for layer, following in itertools.pairwise(changed):
            order = rng.permutation(layer["W"].shape[1])
            layer |= {key: a[..., order] for key, a in layer.items()}
            following["W"] = following["W"][order]
        return changed

    return change_layers(mlp, shuffle)


def rounded(mlp: MLP, round_off: float, seed: int) -> MLP:
    """The same MLP with its matrices in a format of this round-off, each number at random to one of its neighbours."""
    rng = np.random.default_rng(seed)
    step = np.uint32(2**24 * round_off)  # of the bits of a float32

    def change(layers):
        changed = [dict(layer) for layer in layers]
        for layer in changed:
            bits = np.ascontiguousarray(layer["W"]).view(np.uint32)
            bits = bits + rng.integers(0, step, bits.shape, dtype=np.uint32)
            layer["W"] = (bits - bits % step).view(np.float32)
        return changed

    return change_layers(mlp, change)
