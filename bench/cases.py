"""What is timed: sizes, inputs from a seed, and the truth in float64 that every contestant is held against."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vgf_kernels import MLP, FlowConfig, reference

OBS, ACTIONS, PARTICLES = 29, 8, 10  # O, A, N
HIDDEN = (512, 512, 512, 512)
CRITICS = 2
NORM_EPS = 1e-6
LEARNING_RATE, ALPHA, CLIP, DISCOUNT = 0.1, 1.0, (-1.0, 1.0), 0.99
FLOW_AGGREGATE, TARGET_AGGREGATE, TARGET_REDUCE = "mean", "min", "mean"
CHECKED_STATES = 256  # of N = 10; states never mix, so a sample of them is enough to verify a large case

Layers = list[dict[str, np.ndarray]]


@dataclass(frozen=True)
class Case:
    """One function at one size.

    Attributes:
        function: "flow", "sample", "act" or "td_target".
        states: states with inputs of their own, [0, states).
        batch: B, the states of one call. Where states > batch, calls rotate through them.
        flow_steps, euler_steps: L and K.
        calls: timed calls in one turn of a contestant.
        max_rounds: an upper limit, for cases that take minutes.
        activation: of all networks.
        critic: "random"; "all-on", where every unit is on for every input, so that nothing can be left out; or an npz that
            python/examples/train_offline.py --save-critic wrote, with its states.
        particles: N, a state.
    """

    name: str
    function: str
    states: int = 256
    batch: int = 256
    flow_steps: int = 0
    euler_steps: int = 0
    calls: int = 1
    max_rounds: int | None = None
    activation: str = "relu"
    critic: str = "random"
    particles: int = PARTICLES

    @property
    def large(self) -> bool:
        return self.rows >= 100_000

    @property
    def rows(self) -> int:
        """Particles of one call."""
        return self.batch * self.particles

    @property
    def scale(self) -> float:
        """The size of a difference that matters: one step of the flow, or the spread of what is computed."""
        return LEARNING_RATE if self.function in ("flow", "act") else 1.0

    @property
    def config(self) -> FlowConfig:
        return FlowConfig(
            num_steps=self.flow_steps,
            learning_rate=LEARNING_RATE,
            alpha=ALPHA,
            aggregate=FLOW_AGGREGATE,
            clip=CLIP,
        )

    def slices(self) -> list[slice]:
        """The states of every call."""
        return [slice(start, start + self.batch) for start in range(0, self.states, self.batch)]

    def checked(self) -> np.ndarray:
        """The states whose results are verified, evenly spread."""
        count = min(self.states, CHECKED_STATES * PARTICLES // self.particles)
        return np.unique(np.linspace(0, self.states - 1, count).astype(int))


CASES = [
    Case("flow-L1", "flow", flow_steps=1),
    Case("flow-L3", "flow", flow_steps=3),
    Case("flow-L5", "flow", flow_steps=5),
    Case("flow-L3-all-on", "flow", flow_steps=3, critic="all-on"),
    Case("flow-L3-gelu", "flow", flow_steps=3, activation="gelu"),
    Case("sample-K10", "sample", euler_steps=10),
    Case("td_target-K5-L1", "td_target", euler_steps=5, flow_steps=1),
    Case("td_target-K10-L3", "td_target", euler_steps=10, flow_steps=3),
    Case("act-B1-K10-L3", "act", states=64, batch=1, euler_steps=10, flow_steps=3, calls=256),
    Case("flow-100k", "flow", states=10_000, batch=10_000, flow_steps=1, max_rounds=3),
    Case("flow-1M", "flow", states=100_000, batch=100_000, flow_steps=1, max_rounds=2),
]


def trained_case(path: Path) -> Case:
    """The flow on a trained critic."""
    return Case("flow-L3-trained", "flow", flow_steps=3, critic=str(path.resolve()))


@dataclass(frozen=True)
class Data:
    """Float32 inputs of a case. Networks are lists of members, a member a list of layers."""

    critic: list[Layers]
    target_critic: list[Layers]
    policy: list[Layers]
    arrays: dict[str, np.ndarray]  # obs [S, O], particles [S, N, A], noise [S, N, A], reward [S], mask [S]

    def astype(self, dtype) -> Data:
        def cast(members: list[Layers]) -> list[Layers]:
            return [
                [{k: a.astype(dtype) for k, a in layer.items()} for layer in layers] for layers in members
            ]

        arrays = {name: array.astype(dtype) for name, array in self.arrays.items()}
        return Data(cast(self.critic), cast(self.target_critic), cast(self.policy), arrays)

    def reordered(self, seed: int) -> Data:
        """The same functions with the hidden units in another order: equal but for round-off."""
        rng = np.random.default_rng(seed)

        def shuffled(layers: Layers) -> Layers:
            changed = [dict(layer) for layer in layers]
            for layer, following in itertools.pairwise(changed):
                order = rng.permutation(layer["W"].shape[1])
                layer |= {key: array[..., order] for key, array in layer.items()}
                following["W"] = following["W"][order]
            return changed

        networks = ([shuffled(m) for m in members] for members in (self.critic, self.target_critic, self.policy))
        return Data(*networks, self.arrays)

    def of_states(self, states) -> Data:
        arrays = {name: array[states] for name, array in self.arrays.items()}
        return Data(self.critic, self.target_critic, self.policy, arrays)


def make_data(case: Case) -> Data:
    """The inputs of a case: the same in every process.

    Particles are uniform in the action box, so those of one state are as unlike as they ever get.
    """
    if case.critic.endswith(".npz"):
        return _load(case)
    rng = np.random.default_rng(0)
    f32 = np.float32
    critic, target_critic = (
        [_layers(rng, (OBS + ACTIONS, *HIDDEN, 1), norm=True) for _ in range(CRITICS)] for _ in range(2)
    )
    if case.critic == "all-on":
        for layer in itertools.chain(*critic):
            if "bias" in layer:
                layer["bias"] += 6  # six standard deviations of what the norm gives out
    policy = [_layers(rng, (OBS + ACTIONS + 1, *HIDDEN, ACTIONS), norm=False)]
    size = (case.states, case.particles, ACTIONS)
    arrays = {"obs": rng.standard_normal((case.states, OBS), f32)}
    if case.function == "flow":
        arrays["particles"] = rng.random(size, f32) * 2 - 1
    else:
        arrays["noise"] = rng.standard_normal(size, f32)
    if case.function == "td_target":
        arrays["reward"] = rng.standard_normal(case.states, f32)
        arrays["mask"] = (rng.random(case.states, f32) < 0.9).astype(f32)
    return Data(critic, target_critic, policy, arrays)


def _load(case: Case) -> Data:
    """The networks and states of a training run; particles uniform in the action box."""
    with np.load(case.critic) as saved:
        arrays = dict(saved)

    def members(name: str) -> list[Layers]:
        found: dict[int, dict[int, dict]] = {}
        for key, array in arrays.items():
            network, *place = key.split("/")
            if network == name:
                member, layer, field = place
                found.setdefault(int(member), {}).setdefault(int(layer), {})[field] = array
        return [[layers[i] for i in sorted(layers)] for _, layers in sorted(found.items())]

    critic, obs = members("critic"), arrays["obs"][: case.states]
    actions = critic[0][0]["W"].shape[0] - obs.shape[1]
    rng = np.random.default_rng(0)
    particles = rng.random((case.states, case.particles, actions), np.float32) * 2 - 1
    return Data(critic, critic, members("policy"), {"obs": obs, "particles": particles})


def _layers(rng, widths, norm: bool) -> Layers:
    """Weights by the official agent's rule (variance 1 / mean fan); biases and norms a little off 0 and 1."""
    layers = []
    for i, (inner, outer) in enumerate(itertools.pairwise(widths)):
        bound = np.sqrt(6 / (inner + outer))
        layer = {"W": rng.uniform(-bound, bound, (inner, outer)), "b": 0.05 * rng.standard_normal(outer)}
        if norm and i + 2 < len(widths):
            layer["scale"] = 1 + 0.05 * rng.standard_normal(outer)
            layer["bias"] = 0.05 * rng.standard_normal(outer)
        layers.append({name: array.astype(np.float32) for name, array in layer.items()})
    return layers


def as_mlp(members: list[Layers], activation: str, norm: str = "pre") -> MLP:
    """The members' layers as an MLP, with their norm, if they have one, before the activation or after it ("post")."""
    norm = norm if "scale" in members[0][0] else "none"
    return MLP.from_layers(members, activation=activation, norm=norm, norm_eps=NORM_EPS)


def arguments(case: Case, critic, target_critic, policy, arrays) -> tuple[tuple, dict]:
    """Positional and keyword arguments of the case's function, as every frontend of the library takes them."""
    a, config = arrays, case.config
    if case.function == "flow":
        return (critic, a["obs"], a["particles"], config), {}
    if case.function == "sample":
        return (policy, a["obs"], a["noise"], case.euler_steps), {"clip": CLIP}
    if case.function == "act":
        keywords = {"select": "max", "aggregate": TARGET_AGGREGATE}
        return (critic, policy, a["obs"], a["noise"], case.euler_steps, config), keywords
    keywords = {"aggregate": TARGET_AGGREGATE, "reduce": TARGET_REDUCE}
    inputs = (a["obs"], a["noise"], a["reward"], a["mask"], DISCOUNT, case.euler_steps, config)
    return (critic, target_critic, policy, *inputs), keywords


def evaluate(case: Case, data: Data, dtype) -> np.ndarray:
    """The definition (vgf_kernels.reference) on the checked states, computed in dtype."""
    data = data.of_states(case.checked()).astype(dtype)
    mlps = [as_mlp(members, case.activation) for members in (data.critic, data.target_critic, data.policy)]
    positional, keywords = arguments(case, *mlps, data.arrays)
    return getattr(reference, case.function)(*positional, **keywords)
