"""The networks the engines run: an ensemble of equal multi-layer perceptrons."""

from __future__ import annotations

import functools
import itertools
import json
import secrets
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from .settings import check_choice, is_finite, remedy_for

ACTIVATIONS = ("relu", "gelu", "gelu_erf", "silu", "mish", "tanh", "elu")
NORMS = ("pre", "post", "none")
_handles = itertools.count(2)
_by_handle: weakref.WeakValueDictionary[int, MLP] = weakref.WeakValueDictionary()


class Layer(NamedTuple):
    """One Dense layer and the layer norm that follows it. W [in, out]; b, scale, bias [out].

    `scale` and `bias` are None where no norm follows.
    """

    W: Any
    b: Any
    scale: Any = None
    bias: Any = None


class Described:
    """What the checks ask of a network: `widths` (in, hidden..., out) and `ensemble`, its number of members.

    MLP is one; vgf_kernels.jax has others, whose weights may be traced.
    """

    widths: tuple[int, ...]
    ensemble: int

    def check_shapes(self) -> None:
        """Raise ValueError where the weights do not fit each other, if that may have changed since they were read."""


class MLP(Described):
    """E equal MLPs: a critic ensemble (last width 1) or, with E = 1, a velocity field (last width A).

    Hidden layers are Dense -> norm -> activation (norm "pre"), Dense -> activation -> norm ("post") or
    Dense -> activation ("none"); the last Dense has neither.

    Build one with `from_layers`, `from_torch` or `from_flax`. An MLP made by `from_torch` is a live view of
    the module: parameter changes are noticed at the next call. All others hold a snapshot of their own.

    Attributes:
        widths: (in, hidden..., out).
        ensemble: E, the number of members.
        activation: one of "relu", "gelu" (tanh form), "gelu_erf", "silu", "mish", "tanh", "elu".
        norm: "pre", "post" or "none".
        norm_eps: epsilon of the layer norms (flax uses 1e-6, torch 1e-5).
    """

    def __init__(self, source, *, activation: str, norm: str, norm_eps: float) -> None:
        check_choice("activation", activation, ACTIVATIONS)
        check_choice("norm", norm, NORMS)
        check_eps(norm_eps)
        self._source = source
        self.activation = activation
        self.norm = norm
        self.norm_eps = float(norm_eps)
        members = source.members()
        self.ensemble = len(members)
        self.widths = _check_members(members, norm)
        self._register()

    def _register(self) -> None:
        self.packed: dict[str, Any] = {}  # what engines keep of this MLP, by keys that begin with their names
        self.handle = next(_handles)  # stands for this MLP in a graph, where only numbers, strings and tensors may pass
        # In a process to which the graph is exported, where a frozen one, whose weights do not go with it, has no like.
        self.description = secrets.token_hex(8) if self.frozen else self._describe()
        _by_handle[self.handle] = self

    @staticmethod
    def from_graph(tensors: Sequence[Any], handle: int, description: str) -> MLP:
        """The MLP that put its `tensors()`, `handle` and `description` into a graph; by a negative handle, which a graph
        that is exported has, one like it that reads these tensors. A frozen one in a graph that is not exported needs no
        description. Raises RuntimeError where a frozen one lives no more, or never did in this process.
        """
        mlp = _by_handle.get(abs(handle))
        if tensors:
            if handle < 0 or mlp is None or mlp.description != description:
                mlp = _described(handle, description)
            mlp.check()
            return mlp.with_tensors(tensors)
        if mlp is not None and description in ("", mlp.description):
            return mlp
        if description:
            raise RuntimeError(
                "the graph has a frozen MLP of another process, or one that is gone: expected one made by MLP.from_torch, "
                "whose weights are exported with the graph; export with MLP.from_torch(mlp.to_torch())"
            )
        raise RuntimeError("the MLP of a compiled graph is gone; keep it for as long as the graph is called")

    def _describe(self) -> str:
        return json.dumps([self.activation, self.norm, self.norm_eps, self.widths, self._source.layout()])

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.__dict__:
            raise AttributeError(
                f"MLP.{name} cannot be set: engines have compiled and packed for {self.__dict__[name]!r:.80}; make a new MLP"
            )
        super().__setattr__(name, value)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("packed", "handle", "description")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._register()

    # ---- constructors

    @classmethod
    def from_layers(
        cls,
        members: Sequence[Sequence[Mapping[str, Any]]],
        *,
        activation: str = "relu",
        norm: str = "none",
        norm_eps: float = 1e-6,
    ) -> MLP:
        """An MLP from arrays; they are copied.

        Args:
            members: E lists of layer dicts with `W [in, out]`, `b [out]` and, where a norm follows, `scale`
                and `bias` [out]. A single list of dicts is an ensemble of one.

        Raises:
            ValueError: widths do not chain, members differ, a key is missing or unknown.
            TypeError: an array is not floating point, or the dtypes differ.
        """
        from .sources import ArraySource

        return cls(ArraySource.from_dicts(members), activation=activation, norm=norm, norm_eps=norm_eps)

    @classmethod
    def from_torch(
        cls, module, *, activation: str | None = None, norm: str | None = None, norm_eps: float | None = None
    ) -> MLP:
        """A live view of a torch module, or of a list of equal modules (an ensemble).

        The module's Linear, LayerNorm and activation submodules are read in order of registration. The
        keywords are needed only where the module does not say (for example F.relu called in `forward`). Its
        own `forward` is then tried with random weights, on concat(obs, action) or its parts, which its arguments' names may
        not order otherwise; where it takes neither, a warning says so.
        Optimizer steps, `load_state_dict`, `.data` writes and replaced parameters are noticed at the next
        call; a submodule replaced by another is an error then, since it needs a new MLP. So it is for a deep copy, of whose
        modules it holds copies; a pickled one no longer looks. What is no parameter, as a
        LayerNorm's eps or an ELU's alpha, is read once.

        Raises:
            ValueError: the module is not a plain MLP, or the members differ; the message says where.
        """
        from .torch_source import TorchSource

        source = TorchSource.from_modules(module, activation=activation, norm=norm, norm_eps=norm_eps)
        return cls(source, activation=source.activation, norm=source.norm, norm_eps=source.norm_eps)

    @classmethod
    def from_flax(
        cls,
        tree: Mapping[str, Any],
        *,
        activation: str = "relu",
        norm: str | None = None,
        norm_eps: float = 1e-6,
    ) -> MLP:
        """An MLP from a flax parameter tree, such as the official agent's; the arrays are copied.

        Args:
            tree: `Dense_i` {kernel, bias} and `LayerNorm_i` {scale, bias}, bare or under `params`,
                `value_net` (leading ensemble axis E, or none for one member) or `mlp`.
            activation: what the flax module applies, of which the tree tells nothing: one of those above.
            norm: None means "pre" where the tree has LayerNorm entries, else "none". A module that normalizes what
                its activation returns has the same tree and is "post".

        Raises:
            ValueError: the tree has no Dense_0, layers are missing or do not fit, or there is something else in
                it.
        """
        from .sources import ArraySource

        source, has_norm = ArraySource.from_flax(tree)
        norm = norm if norm is not None else ("pre" if has_norm else "none")
        return cls(source, activation=activation, norm=norm, norm_eps=norm_eps)

    # ---- ways back

    def to_torch(self) -> Any:
        """A new torch module with a copy of the weights: nn.Sequential, or an nn.ModuleList of E of them."""
        from .torch_source import to_torch

        return to_torch(self)

    def to_flax(self) -> dict[str, Any]:
        """The official agent's tree: `value_net` with a leading E axis (last width 1), else `mlp`."""
        from .sources import to_flax

        return to_flax(self)

    # ---- what engines ask

    @property
    def members(self) -> list[list[Layer]]:
        """The current weights: E lists of layers. Arrays are the source's own; do not write to them.

        Raises:
            ValueError: the module's parameters no longer have the shapes they had when the MLP was made.
        """
        members = self._source.members()
        if not self.frozen and _check_members(members, self.norm) != self.widths:
            raise ValueError(
                f"the module's widths have changed: expected {self.widths}, got "
                f"{_check_members(members, self.norm)}; make a new MLP with MLP.from_torch"
            )
        return members

    @property
    def framework(self) -> str:
        """Where the weights live: "numpy" or "torch"."""
        return self._source.framework

    @property
    def dtype(self) -> str:
        """Name of the weights' dtype, for example "float32"."""
        return self._source.dtype()

    @property
    def device(self) -> str:
        """Device of the weights: "cpu", "cuda:0", ..."""
        return self._source.device()

    def check(self) -> None:
        """Raise ValueError where a live MLP's module has other submodules than those that were read."""
        self._source.check()

    def tensors(self) -> list:
        """The parameters a live MLP reads at every call, in a fixed order; empty for a frozen one."""
        return self._source.tensors()

    def with_tensors(self, tensors: Sequence[Any]) -> MLP:
        """This MLP with other values for `tensors()`, sharing the packed copies: for compiled graphs."""
        view = object.__new__(MLP)
        view.__dict__.update(self.__dict__, _source=self._source.with_tensors(tensors))
        return view

    def member(self, index: int) -> MLP:
        """An ensemble of one: a snapshot of one member's current weights."""
        if not -self.ensemble <= index < self.ensemble:
            raise IndexError(f"member: expected a number below {self.ensemble}, got {index}")
        return self._snapshot([self.members[index]])

    def version(self) -> tuple:
        """A token that changes when the source reports a change (parameter identity and version counters)."""
        return self._source.version()

    @property
    def frozen(self) -> bool:
        """True where the weights cannot change, so engines need not look for changes."""
        return self._source.frozen

    def freeze(self) -> MLP:
        """A snapshot that never changes: for serving, where looking for changed weights would cost time."""
        return self._snapshot(self.members)

    def _snapshot(self, members: list[list[Layer]]) -> MLP:
        from .sources import ArraySource

        source = ArraySource.from_members(members)
        return MLP(source, activation=self.activation, norm=self.norm, norm_eps=self.norm_eps)

    def __repr__(self) -> str:
        chain = " -> ".join(str(w) for w in self.widths)
        settings = f"{self.activation}, norm={self.norm!r}, {self.dtype}, {self.framework}"
        return f"MLP({self.ensemble} x [{chain}], {settings})"


@functools.lru_cache(maxsize=64)
def _described(handle: int, description: str) -> MLP:
    """An MLP without weights for an exported graph's `handle`: its packed copies serve from call to call."""
    from .torch_source import TorchSource

    activation, norm, norm_eps, widths, layout = json.loads(description)
    source = TorchSource.from_layout(layout, widths, activation, norm, norm_eps)
    return MLP(source, activation=activation, norm=norm, norm_eps=norm_eps)


def check_eps(eps: Any) -> None:
    """Raise ValueError unless eps can be added to a variance."""
    if not is_finite(eps) or eps < 0:
        raise ValueError(f"norm_eps: expected a finite number >= 0, got {eps!r}{remedy_for(eps)}")


def _check_members(members: list[list[Layer]], norm: str) -> tuple[int, ...]:
    """The widths shared by all members. Raises ValueError where they do not chain or differ."""
    widths = check_layers(members[0], norm, 0)
    for index, member in enumerate(members[1:], start=1):
        other = check_layers(member, norm, index)
        if other != widths:
            raise ValueError(
                f"members must be equal: member 0 has widths {widths}, member {index} has {other}"
            )
    return widths


def check_layers(layers: Sequence[Layer], norm: str, index: int = 0) -> tuple[int, ...]:
    """The widths of one member, by the shapes of its arrays. Raises ValueError where they do not chain."""
    if len(layers) < 2:
        raise ValueError(
            f"member {index}: expected at least one hidden layer and an output layer, got {len(layers)}"
        )
    widths: list[int] = []
    for i, layer in enumerate(layers):
        where = f"member {index}, layer {i}"
        shape = tuple(layer.W.shape)
        if len(shape) != 2 or 0 in shape:
            raise ValueError(f"{where}: expected W [in, out] with positive widths, got shape {shape}")
        if widths and shape[0] != widths[-1]:
            raise ValueError(
                f"{where}: widths do not chain: the layer before gives {widths[-1]}, W takes {shape[0]}"
            )
        hidden = i + 1 < len(layers)
        wants_norm = hidden and norm != "none"
        for name, vector, wanted in (
            ("b", layer.b, True),
            ("scale", layer.scale, wants_norm),
            ("bias", layer.bias, wants_norm),
        ):
            if wanted and vector is None:
                raise ValueError(f"{where}: {name} is missing (norm={norm!r})")
            if not wanted and vector is not None:
                reason = f"norm is {norm!r}" if hidden else "the last layer has no norm"
                raise ValueError(f"{where}: {name} was given but {reason}")
            if vector is not None and tuple(vector.shape) != (shape[1],):
                raise ValueError(f"{where}: expected {name} [{shape[1]}], got shape {tuple(vector.shape)}")
        widths = [*widths, shape[1]] if widths else [shape[0], shape[1]]
    return tuple(widths)
