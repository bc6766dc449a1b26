"""An MLP's weights in torch modules that keep changing, and the way back to a module."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from .mlp import ACTIVATIONS, MLP, NORMS, Layer
from .settings import check_choice
from .torch_module import check_forward, read_module


class TorchSource:
    """A live view of torch modules. Parameters are looked up in their modules at every call."""

    framework = "torch"
    frozen = False

    def __init__(self, chains: list[list[tuple]], activation: str, norm: str, norm_eps: float) -> None:
        self._chains = chains  # per member, per layer: the parameter tables of (Linear, LayerNorm or None)
        self._slots = [
            (table, key)
            for chain in chains
            for layer in chain
            for table in layer
            if table is not None
            for key in ("weight", "bias")
        ]
        self._fixed: list | None = None  # with_tensors: read these instead of the modules' parameters
        self._places: list[tuple] = []  # of the modules that were read: (their parent's modules, name, module)
        self._lengths: list[tuple] = []  # of those of which all they hold counts: (their modules, how many there were, of what type)
        self.activation, self.norm, self.norm_eps = activation, norm, norm_eps

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_places": [], "_lengths": []}  # weights can be pickled whatever modules they are of

    def __deepcopy__(self, memo: dict) -> TorchSource:
        made = memo[id(self)] = object.__new__(TorchSource)
        made.__dict__.update(copy.deepcopy(self.__dict__, memo))  # of an agent that is copied, its own copies of modules
        return made

    @classmethod
    def from_modules(cls, modules, *, activation, norm, norm_eps) -> TorchSource:
        import torch

        container = [modules] if isinstance(modules, torch.nn.ModuleList) else []
        if isinstance(modules, torch.nn.Module) and not container:
            modules = [modules]
        modules = list(modules) if isinstance(modules, Iterable) else []
        if not modules or not all(isinstance(m, torch.nn.Module) for m in modules):
            raise ValueError("from_torch: expected an nn.Module or a non-empty list of them")
        modules = [getattr(m, "_orig_mod", m) for m in modules]  # what torch.compile has wrapped
        if activation is not None:
            check_choice("activation", activation, ACTIVATIONS)
        if norm is not None:
            check_choice("norm", norm, NORMS)
        read = [read_module(m, activation, norm, norm_eps) for m in modules]
        settings = {r[1:] for r in read}
        if len(settings) > 1:
            raise ValueError(f"members must be equal: (activation, norm, eps) are {sorted(settings)}")
        tables = [[(linear._parameters, norm and norm._parameters) for linear, norm in r[0]] for r in read]
        source = cls(tables, *read[0][1:])
        for module, chain in zip(modules, tables):
            check_forward(module, cls([chain], *read[0][1:]))
        parents = [*container, *(parent for module in modules for parent in module.modules())]
        source._places = [
            (parent._modules, name, child) for parent in parents for name, child in parent.named_children()
        ]
        source._lengths = [
            (parent._modules, len(parent._modules), type(parent).__name__)
            for parent in parents
            if isinstance(parent, torch.nn.Sequential) or parent in container
        ]
        return source

    @classmethod
    def from_layout(cls, layout: list[list[str]], widths, activation, norm, norm_eps) -> TorchSource:
        """Layers of these widths with the parameters that `layout()` says, which have shapes but no memory."""
        import torch

        def table(letters: str, *shape: int) -> dict[str, Any]:
            shapes = {"weight": shape, "bias": shape[:1]}
            return {
                key: None if letter == "-" else torch.empty(shapes[key], device="meta")
                for key, letter in zip(shapes, letters)
            }

        def layer(letters: str, inner: int, outer: int) -> tuple:
            return table(letters[:2], outer, inner), table(letters[2:], outer) if letters[2:] else None

        chains = [[layer(*of) for of in zip(member, widths[:-1], widths[1:], strict=True)] for member in layout]
        return cls(chains, activation, norm, norm_eps)

    def layout(self) -> list[list[str]]:
        """Which parameters there are: of every member's layers weight and bias of the Linear, then of a LayerNorm, each
        a letter, or "-" where it is absent.
        """

        def letters(table: dict[str, Any] | None, names: str) -> str:
            if table is None:
                return ""
            return "".join("-" if table[key] is None else name for key, name in zip(("weight", "bias"), names))

        return [[letters(linear, "Wb") + letters(norm, "sh") for linear, norm in chain] for chain in self._chains]

    def check(self) -> None:
        """Raise ValueError where modules are no longer those that were read."""
        for modules, name, module in self._places:
            if modules.get(name) is not module:
                raise ValueError(
                    f"{name!r} of the module that MLP.from_torch has read is another one by now, "
                    f"{type(modules.get(name)).__name__} for {type(module).__name__}; make a new MLP"
                )
        for modules, count, kind in self._lengths:
            if len(modules) != count:
                raise ValueError(
                    f"the {kind} that MLP.from_torch has read had {count} modules, and has {len(modules)} by now; make a new MLP"
                )

    def tensors(self) -> list:
        """All parameters in layer order; an absent bias or affine norm is left out."""
        if self._fixed is not None:
            return self._fixed
        try:
            return [table[key] for table, key in self._slots if table[key] is not None]
        except KeyError:
            raise ValueError(
                "the module's parameters are no longer where they were: expected a weight and a bias in every layer, got "
                "one that computes them, such as a parametrization; remove it, or make a new MLP"
            ) from None

    def with_tensors(self, tensors: Sequence[Any]) -> TorchSource:
        """The same layers with other values for `tensors()`."""
        source = TorchSource(self._chains, self.activation, self.norm, self.norm_eps)
        source._fixed = list(tensors)
        return source

    def members(self) -> list[list[Layer]]:
        self.check()
        tensors = iter(self.tensors())

        def read(table):
            return [None if table[key] is None else _in_memory(next(tensors, None)) for key in ("weight", "bias")]

        def layer(linear, norm):
            return _torch_layer(read(linear), norm and read(norm))

        members = [[layer(*tables) for tables in chain] for chain in self._chains]
        if next(tensors, None) is not None:
            raise ValueError(_OTHER_PARAMETERS)
        return members

    def version(self) -> tuple:
        self.check()
        tensors = self.tensors()
        try:
            writes = [p._version for p in tensors]
        except RuntimeError:  # inference tensors count no writes
            writes = []
        try:
            return [(p.data_ptr(), p.shape, p.stride()) for p in tensors], writes
        except RuntimeError:
            from .torch.arrays import address

            for p in tensors:
                address(p)  # or an error that says what to do
            raise

    def dtype(self) -> str:
        return str(self.tensors()[0].dtype).removeprefix("torch.")

    def device(self) -> str:
        return str(self.tensors()[0].device)


_OTHER_PARAMETERS = (
    "the module has other parameters than when its MLP was made: expected the same weights and biases in a graph, got "
    "more or fewer; make a new MLP with MLP.from_torch"
)


def _in_memory(parameter):
    """The parameter as its memory has it, for engines that read that."""
    if parameter is None:
        raise ValueError(_OTHER_PARAMETERS)
    if parameter.is_neg():
        raise ValueError(
            "weights: expected parameters whose memory holds their values, got a negative view (as .imag of a "
            "conjugate is); use .resolve_neg()"
        )
    return parameter.detach()


def _torch_layer(linear, norm) -> Layer:
    weight, bias = linear
    if weight is None:
        raise ValueError(_OTHER_PARAMETERS)
    matrix = weight.transpose(0, -1)  # of anything but two axes, too, which the check of shapes is told then
    bias = weight.new_zeros(weight.shape[0]) if bias is None else bias
    if norm is None:
        return Layer(matrix, bias)
    scale, shift = norm
    scale = weight.new_ones(weight.shape[0]) if scale is None else scale
    shift = weight.new_zeros(weight.shape[0]) if shift is None else shift
    return Layer(matrix, bias, scale, shift)


def to_torch(mlp: MLP):
    """See MLP.to_torch."""
    import torch
    from torch import nn

    makers: dict[str, Any] = {
        "relu": nn.ReLU,
        "gelu": lambda: nn.GELU(approximate="tanh"),
        "gelu_erf": nn.GELU,
        "silu": nn.SiLU,
        "mish": nn.Mish,
        "tanh": nn.Tanh,
        "elu": nn.ELU,
    }

    def tensor(array):
        return (
            array.detach().clone() if isinstance(array, torch.Tensor) else torch.from_numpy(np.array(array))
        )

    def sequential(layers: list[Layer]):
        modules: list[nn.Module] = []
        for i, layer in enumerate(layers):
            inner, outer = layer.W.shape
            linear = nn.Linear(inner, outer)
            linear.weight = nn.Parameter(tensor(layer.W).t().contiguous())
            linear.bias = nn.Parameter(tensor(layer.b))
            modules.append(linear)
            if i + 1 == len(layers):
                break
            tail = [makers[mlp.activation]()]
            if layer.scale is not None:
                norm = nn.LayerNorm(outer, eps=mlp.norm_eps)
                norm.weight, norm.bias = nn.Parameter(tensor(layer.scale)), nn.Parameter(tensor(layer.bias))
                tail.insert(0 if mlp.norm == "pre" else 1, norm)
            modules += tail
        return nn.Sequential(*modules)

    nets = [sequential(layers) for layers in mlp.members]
    return nets[0] if len(nets) == 1 else nn.ModuleList(nets)
