"""An MLP's weights in a torch module that keeps changing: how a module is read and tried, and the way back to one."""

from __future__ import annotations

import copy
import itertools
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from .mlp import ACTIVATIONS, MLP, NORMS, Layer
from .settings import check_choice


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
        read = [_read_module(m, activation, norm, norm_eps) for m in modules]
        settings = {r[1:] for r in read}
        if len(settings) > 1:
            raise ValueError(f"members must be equal: (activation, norm, eps) are {sorted(settings)}")
        tables = [[(linear._parameters, norm and norm._parameters) for linear, norm in r[0]] for r in read]
        source = cls(tables, *read[0][1:])
        for module, chain in zip(modules, tables):
            _check_forward(module, cls([chain], *read[0][1:]))
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
    bias = weight.new_zeros(weight.shape[0]) if bias is None else bias
    if norm is None:
        return Layer(weight.t(), bias)
    scale, shift = norm
    scale = weight.new_ones(weight.shape[0]) if scale is None else scale
    shift = weight.new_zeros(weight.shape[0]) if shift is None else shift
    return Layer(weight.t(), bias, scale, shift)


def _activation_name(module) -> str | None:
    from torch import nn

    if isinstance(module, nn.GELU):
        return "gelu" if module.approximate == "tanh" else "gelu_erf"
    if isinstance(module, nn.ELU):
        if module.alpha != 1.0:
            raise ValueError(f"from_torch: ELU is supported with alpha=1 only, got {module.alpha}")
        return "elu"
    names = {nn.ReLU: "relu", nn.SiLU: "silu", nn.Mish: "mish", nn.Tanh: "tanh"}
    return names.get(type(module))


def _check_parameters(name: str, leaf) -> None:
    """Raise ValueError where something computes a weight or a bias, which then is none of the module's parameters."""
    from torch import nn

    for key in ("weight", "bias"):
        optional = key == "bias" or isinstance(leaf, nn.LayerNorm)
        if key not in leaf._parameters or (leaf._parameters[key] is None and not optional):
            raise ValueError(f"from_torch: {name!r} has a parametrized {key}; remove the parametrization first")


def _read_module(module, activation, norm, norm_eps) -> tuple:
    """(chain, activation, norm, eps) of one module. Raises ValueError where it is not a plain MLP."""
    from torch import nn

    chain: list[list] = []
    order = ""  # one letter a leaf: L linear, N norm, A activation
    activations, eps = set(), set()
    spelled = True  # whether nothing but nn.Sequential says in which order the leaves compute
    # A Sequential may list a module twice; elsewhere a second name of a module is no second use.
    for name, leaf in module.named_modules(remove_duplicate=not isinstance(module, nn.Sequential)):
        if next(leaf.children(), None) is not None:
            spelled &= type(leaf) is nn.Sequential
            continue
        if isinstance(leaf, nn.Linear):
            _check_parameters(name, leaf)
            if nn.parameter.is_lazy(leaf.weight):
                raise ValueError(f"from_torch: {name!r} has no weights yet; call the module once first")
            chain.append([leaf, None])
            order += "L"
        elif isinstance(leaf, nn.LayerNorm):
            if not chain or tuple(leaf.normalized_shape) != (chain[-1][0].out_features,):
                raise ValueError(f"from_torch: LayerNorm {name!r} does not follow a Linear of its width")
            _check_parameters(name, leaf)
            chain[-1][1] = leaf
            eps.add(leaf.eps)
            order += "N"
        elif (found := _activation_name(leaf)) is not None:
            activations.add(found)
            order += "A"
        elif isinstance(leaf, nn.Identity) or (isinstance(leaf, nn.Dropout) and leaf.p == 0):
            continue
        else:
            raise ValueError(
                f"from_torch: {name!r} is a {type(leaf).__name__}; expected Linear, LayerNorm and "
                "relu, gelu, silu, mish, tanh or elu modules. Use MLP.from_layers for anything else"
            )
    if len(chain) < 2:
        raise ValueError(f"from_torch: expected at least two Linear layers, found {len(chain)}")
    for before, after in itertools.pairwise(chain):
        if before[0].out_features != after[0].in_features:
            raise ValueError(
                f"from_torch: widths do not chain ({before[0].out_features} -> {after[0].in_features}); "
                "for twin networks in one module pass them as a list: MLP.from_torch([m.q1, m.q2])"
            )
    if len(activations) > 1 or len(eps) > 1:
        raise ValueError(
            f"from_torch: expected one activation and one eps, got {sorted(activations)}, {sorted(eps)}"
        )
    placement = PLACEMENTS.get(re.sub(r"^(L[NA]*)\1*L$", r"\1", order))
    if spelled and activations and placement is None:
        raise ValueError(
            "from_torch: expected every hidden Linear with one activation, and a LayerNorm on the same side of each "
            f"or none, then a Linear; got the order {order} (L linear, N norm, A activation)"
        )
    activation = _agreed("activation", activation, activations.pop() if activations else None)
    if activation is None:
        raise ValueError(
            'from_torch: no activation module found; name it: MLP.from_torch(m, activation="relu")'
        )
    found = placement or (None if "N" in order else "none")
    norm = _agreed("norm", norm, found) if spelled else norm or found
    if norm is None:  # a shared or functional activation leaves no A per layer
        raise ValueError(
            f"from_torch: cannot tell where the norms stand from the order {order} "
            '(L linear, N norm, A activation); say it: norm="pre" or norm="post"'
        )
    norm_eps = _agreed("norm_eps", norm_eps, eps.pop() if eps else None)
    return [tuple(pair) for pair in chain], activation, norm, 1e-5 if norm_eps is None else norm_eps


PLACEMENTS = {"LA": "none", "LNA": "pre", "LAN": "post"}  # of the norm, by the order in a hidden layer


def _agreed(name: str, said: Any, found: Any) -> Any:
    """What was said, or else found in the module. Raises ValueError where they contradict each other."""
    if said is not None and found is not None and said != found:
        raise ValueError(f"from_torch: {name} is {found!r} in the module, got {name}={said!r}; leave it out")
    return found if said is None else said


def _check_forward(module, source: TorchSource) -> None:
    """Raise ValueError where the module's own forward differs from the MLP that `source` reads from it.

    Where a forward takes neither concat(obs, action) nor its two or three parts, it is not tried, and a warning says so.
    """
    import torch

    own = source.tensors()[0].dtype
    # Only a forward that insists on its own numbers is tried in them: they tell similar activations apart less well.
    trials = {own: max(1e-2, 16 * torch.finfo(own).eps), torch.float64: 1e-6}
    name = type(module).__name__
    for dtype, tolerance in reversed(trials.items()):
        tried, error = False, None
        for got, wanted in _forwards(module, source, dtype):
            if isinstance(got, Exception):
                error = error or got
                continue
            tried = True
            if got.size == wanted.size and np.allclose(got, wanted, rtol=0, atol=tolerance * np.abs(wanted).max()):
                return
        if tried:
            raise ValueError(
                f"from_torch: {name}.forward does not compute the MLP its submodules spell "
                f"(activation {source.activation!r}, norm {source.norm!r}, and nothing else); expected a plain chain of its "
                "layers from concat(obs, action), or concat(obs, x, t)"
            )
    warnings.warn(
        f"from_torch: {name}.forward takes neither concat(obs, action) nor its parts, so it was not tried whether it "
        f"computes the MLP its submodules spell; if it does, pass those alone: MLP.from_torch(module.net). "
        f"Of concat(obs, action) it said: {type(error).__name__}: {error}",
        stacklevel=4,
    )


def _forwards(module, source: TorchSource, dtype) -> Iterator[tuple[Any, np.ndarray]]:
    """What the module computes, or the exception that it raises, and what `source` does, for every way to call a forward.

    Both compute random inputs, large ones among them, with random numbers in all that the module keeps: its own, such as a
    last layer near zero or a scale of one, may hide a difference.
    """
    import torch
    from torch.func import functional_call

    from .reference.mlp import forward

    tensors = source.tensors()
    generator = torch.Generator().manual_seed(0)
    device = "cpu" if tensors[0].is_meta else tensors[0].device

    def draw(shape, scale: float = 1.0):
        return (torch.randn(shape, generator=generator, device="cpu") * scale).to(device, dtype)

    drawn = {id(t): draw(t.shape, t.shape[-1] ** -0.5 if t.ndim == 2 else 1.0) for t in tensors}
    (layers,) = source.with_tensors([drawn[id(t)] for t in tensors]).members()
    x = draw((6, len(layers[0].W)))
    x[3:] *= 100
    arrays = [Layer(*(None if a is None else a.double().cpu().numpy() for a in layer)) for layer in layers]
    wanted = forward(arrays, x.double().cpu().numpy(), source.activation, source.norm, source.norm_eps).reshape(-1)

    def stands_for(t):
        if id(t) not in drawn:
            drawn[id(t)] = draw(t.shape) if t.is_floating_point() else t.clone()
        return drawn[id(t)]

    # Every place once: of a module that has two names, functional_call would not put the parameters back.
    state = {
        f"{prefix}.{key}" if prefix else key: stands_for(t)
        for prefix, owner in module.named_modules()
        for key, t in itertools.chain(owner._parameters.items(), owner._buffers.items())
        if t is not None
    }
    for parts in _parts(x.shape[1]):
        try:
            with torch.no_grad(), torch.autocast(x.device.type, enabled=False), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                got = functional_call(module, state, x.split(parts, dim=1), tie_weights=False)
        except Exception as error:  # it is not made for these
            yield error, wanted
            continue
        if isinstance(got, torch.Tensor):
            yield got.double().cpu().numpy().reshape(-1), wanted


def _parts(width: int) -> Iterator[list[int]]:
    """How many numbers go to each argument: of forward(x), forward(obs, action), forward(obs, x, t)."""
    yield [width]
    for obs in range(1, width):
        yield [obs, width - obs]
    for obs in range(1, width - 1):
        yield [obs, width - 1 - obs, 1]


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
