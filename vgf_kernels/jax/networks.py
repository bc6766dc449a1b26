"""Networks whose weights may be traced: pytrees with arrays as leaves and everything else static."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..checks import check_weight
from ..mlp import ACTIVATIONS, MLP, NORMS, Described, Layer, check_eps, check_layers
from ..settings import check_choice
from ..sources import STACK_MEMBERS, flax_layers
from .attributes import PackedNetwork


@jax.tree_util.register_pytree_node_class
@dataclass(frozen=True)
class Network(Described):
    """E equal MLPs as a pytree: its leaves are the weights, traced or not.

    Attributes:
        layers: a tuple of Layer; W [E, in, out]; b, scale, bias [E, out].
        activation, norm, norm_eps: as those of MLP.
    """

    layers: tuple[Layer, ...]
    activation: str
    norm: str
    norm_eps: float

    @property
    def widths(self) -> tuple[int, ...]:
        return (self.layers[0].W.shape[1], *(layer.W.shape[2] for layer in self.layers))

    @property
    def ensemble(self) -> int:
        return self.layers[0].W.shape[0]

    def check_shapes(self) -> None:
        """Raise ValueError where the arrays do not fit each other: whoever maps a pytree may change them."""
        check_choice("activation", self.activation, ACTIVATIONS)
        check_choice("norm", self.norm, NORMS)
        check_eps(self.norm_eps)
        _check_fit(tuple(tuple(a if a is None else tuple(a.shape) for a in layer) for layer in self.layers), self.norm)

    @classmethod
    def from_mlp(cls, mlp: MLP) -> Network:
        """A snapshot MLP's weights, as constants.

        Raises:
            TypeError: the MLP is a live view of a torch module.
        """
        if mlp.framework != "numpy":
            frozen = "mlp.freeze()" if mlp.device == "cpu" else "MLP.from_torch(module.cpu()).freeze()"
            raise TypeError(
                f"expected an MLP of arrays, got {mlp!r}, whose weights are torch tensors on {mlp.device}; pass {frozen}, or "
                "network(params) for parameters that change"
            )
        if "jax" not in mlp.packed:  # its weights never change
            members = zip(*mlp.members)
            layers = tuple(Layer(*(None if a[0] is None else _stacked(a) for a in zip(*layer))) for layer in members)
            mlp.packed["jax"] = cls(layers, mlp.activation, mlp.norm, mlp.norm_eps)
        return mlp.packed["jax"]

    def tree_flatten(self):
        return (self.layers,), (self.activation, self.norm, self.norm_eps)

    @classmethod
    def tree_unflatten(cls, static, children) -> Network:
        return cls(*children, *static)


def _stacked(arrays) -> np.ndarray:
    stacked = np.stack(arrays)
    stacked.setflags(write=False)
    return stacked


def network(
    params: Mapping[str, Any], *, activation: str = "relu", norm: str | None = None, norm_eps: float = 1e-6
) -> Network:
    """A network of flax parameters, inside or outside jit; nothing is copied.

    Args:
        params: `Dense_i` {kernel, bias} and `LayerNorm_i` {scale, bias}, bare or under `params`, `value_net`
            (leading ensemble axis E, or none for one member) or `mlp`: the official agent's trees.
        activation: "relu", "gelu" (tanh form), "gelu_erf", "silu", "mish", "tanh" or "elu": what the flax module
            applies, of which the tree tells nothing.
        norm: "pre", "post" or "none"; None means "pre" where the tree has LayerNorm entries, else "none". A module that
            normalizes what its activation returns has the same tree and is "post".
        norm_eps: epsilon of the layer norms; flax uses 1e-6.

    Raises:
        ValueError: the tree has no Dense_0, layers are missing or do not fit, or there is something else in it.
    """
    layers, has_norm = flax_layers(params, _array)
    norm = norm if norm is not None else ("pre" if has_norm else "none")
    made = Network(tuple(layers), activation, norm, norm_eps)
    made.check_shapes()
    return replace(made, norm_eps=float(norm_eps))


@functools.lru_cache(maxsize=256)
def _check_fit(layers: tuple, norm: str) -> None:
    """Raise ValueError unless shapes [E, ...] are those of an ensemble of equal MLPs."""
    members = {shape[:1] for layer in layers for shape in layer if shape is not None}
    if len(members) != 1 or not all(members) or (0,) in members:
        raise ValueError(
            f"weights: expected arrays with one leading axis of E >= 1 members, got shapes {[list(layer) for layer in layers]}"
        )
    check_layers([Layer(*(s and jax.ShapeDtypeStruct(s[1:], np.float32) for s in layer)) for layer in layers], norm)


def _array(leaf: Any) -> Any:
    return leaf if isinstance(leaf, (jax.Array, np.ndarray)) else jnp.asarray(leaf)


class Layout(NamedTuple):
    """For whom weights are packed.

    Attributes:
        engine: whose layout it is.
        precision: "fp32", "tf32" or "bf16".
        observations: how many inputs are observations; the CUDA engine's layout depends on it.
        role: "critic", "policy" or "score": what the other inputs are.
        in_place: not packed: the engine is given the weights themselves.
    """

    engine: str
    precision: str
    observations: int
    role: str
    in_place: bool = False


def role_of(name: str) -> str:
    """The role of a network that a call takes by this name."""
    return "policy" if name == "policy" else "critic"


class Description(NamedTuple):
    """What a call must know of a network: its sizes and rules, whether its gradient is needed, and how it is packed.

    `layout` is None for weights that the call packs itself.
    """

    widths: tuple[int, ...]
    ensemble: int
    activation: str
    norm: str
    norm_eps: float
    gradient: bool
    layout: Layout | None = None

    def attribute(self) -> PackedNetwork:
        """What a handler is told of the network."""
        *network, layout = self
        return PackedNetwork(
            *network, layout.precision, layout.observations, layout.role == "critic", layout.in_place
        )

    def packed_bytes(self, handlers: Any) -> int:
        """What the handler "pack" of a compiled module returns."""
        a = self.attribute()
        return handlers.packed_bytes(a.widths, a.ensemble, a.gradient, a.precision, a.observations, a.critic)


@jax.tree_util.register_pytree_node_class
@dataclass(frozen=True)
class Packed(Described):
    """A network in the layout of an engine, as a pytree with one leaf. Made by `pack`.

    Attributes:
        weights: uint8 [bytes].
        description: the network, whether the gradient's part is there, and the layout.
    """

    weights: Any
    description: Description

    @property
    def widths(self) -> tuple[int, ...]:
        return self.description.widths

    @property
    def ensemble(self) -> int:
        return self.description.ensemble

    def check_shapes(self) -> None:
        """Raise TypeError where the weights are no longer those of one network: whoever maps a pytree may change them."""
        if self.weights.dtype != np.uint8 or self.weights.ndim != 1:
            raise TypeError(
                f"packed weights: expected the bytes that pack returned, uint8 of rank 1, got {self.weights.dtype} of shape "
                f"{list(self.weights.shape)}; average or stack the parameters, then pack"
            )

    def tree_flatten(self):
        return (self.weights,), self.description

    @classmethod
    def tree_unflatten(cls, description, children) -> Packed:
        return cls(*children, description)


def as_networks(**named: Any) -> list[Network | Packed]:
    """What the caller names so, MLPs as networks.

    Raises:
        TypeError: for parameters that nobody has made a network of, and for what has none.
    """
    for name, given in named.items():
        if not isinstance(given, (Network, Packed, MLP)):
            wanted = "a Network" if _is_parameters(given) else "an MLP"
            params = "state.params" if hasattr(given, "params") else "params"
            first = f"{STACK_MEMBERS}, and " if isinstance(given, (list, tuple)) else ""
            raise TypeError(
                f"{name}: expected {wanted}, got {type(given).__name__}; {first}make one with network({params})"
            )
    return [Network.from_mlp(given) if isinstance(given, MLP) else given for given in named.values()]


def is_network(given: Any) -> bool:
    """Whether it is one, or parameters to make one of, rather than a function."""
    return isinstance(given, Described) or (_is_parameters(given) and not callable(given))


def _is_parameters(given: Any) -> bool:
    """A tree of parameters, or what trains one."""
    return isinstance(given, (Mapping, list, tuple)) or hasattr(given, "params")


def describe(network: Network, gradient: bool) -> Description:
    """The description of a network that is yet to be packed."""
    return Description(
        network.widths, network.ensemble, network.activation, network.norm, network.norm_eps, gradient
    )


def weights_of(network: Network) -> list[Any]:
    """The weights in the order of the handler "pack"."""
    return [array for layer in network.layers for array in layer if array is not None]


def with_time(network: Network) -> Network:
    """The network with one more input, the last, which it does not look at."""
    first, *others = network.layers
    first = first._replace(W=jnp.pad(first.W, ((0, 0), (0, 1), (0, 0))))
    return replace(network, layers=(first, *others))


def as_policy(score: Packed) -> Packed:
    """A packed score as the sampler takes it: it was packed with an input for the time."""
    held = score.description
    return replace(score, description=held._replace(layout=held.layout._replace(role="policy")))


def check_score_network(network: Network | Packed, obs, particles) -> None:
    """Raise unless the network gives a score for obs [B, O] and particles [B, N, A]."""
    network.check_shapes()
    inputs = network.widths[0]
    if isinstance(network, Packed):
        role = network.description.layout.role
        if role != "score":
            raise ValueError(
                f"score_fn: expected weights packed with role='score', got role={role!r}; pack them so"
            )
        inputs -= 1  # the time
    if len(obs) != 2 or obs[0] != particles[0]:
        raise ValueError(f"obs: expected [B, O] with B = {particles[0]} states, got shape {list(obs)}")
    wanted = obs[1] + particles[2], particles[2], 1
    got = inputs, network.widths[-1], network.ensemble
    if got != wanted:
        raise ValueError(
            f"score_fn: expected one member from O + A = {wanted[0]} inputs to A = {wanted[1]} outputs, got "
            f"{got[2]} from {got[0]} to {got[1]}"
        )


def check_dtypes(network: Network, engine: str, dtypes: tuple[str, ...]) -> None:
    """Raise TypeError unless all weights are of dtypes that the engine computes."""
    for i, layer in enumerate(network.layers):
        for name, array in zip(layer._fields, layer):
            if array is not None:
                check_weight(f"weights: layer {i}, {name}", str(array.dtype), engine, dtypes)
