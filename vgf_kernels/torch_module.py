"""How a torch module is read as an MLP: its layers in order, its settings, and whether its own forward computes them."""

from __future__ import annotations

import inspect
import itertools
import re
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from .mlp import Layer

if TYPE_CHECKING:
    from .torch_source import TorchSource


def read_module(module, activation, norm, norm_eps) -> tuple:
    """(chain, activation, norm, eps) of one module. Raises ValueError where it is not a plain MLP."""
    from torch import nn

    chain: list[list] = []
    order = ""  # one letter a leaf: L linear, N norm, A activation
    activations, eps = set(), set()
    spelled = True  # whether nothing but nn.Sequential says in which order the leaves compute
    # A Sequential may list a module twice; elsewhere a second name of a module is no second use.
    for name, leaf in module.named_modules(remove_duplicate=not isinstance(module, nn.Sequential)):
        if isinstance(leaf, (nn.Linear, nn.LayerNorm)):
            _check_parameters(name, leaf)
        elif next(leaf.children(), None) is not None:
            spelled &= type(leaf) is nn.Sequential
            continue
        if isinstance(leaf, nn.Linear):
            chain.append([leaf, None])
            order += "L"
        elif isinstance(leaf, nn.LayerNorm):
            if not chain or tuple(leaf.normalized_shape) != (chain[-1][0].out_features,):
                raise ValueError(f"from_torch: LayerNorm {name!r} does not follow a Linear of its width")
            chain[-1][1] = leaf
            eps.add(leaf.eps)
            order += "N"
        elif (found := _activation_name(leaf)) is not None:
            activations.add(found)
            order += "A"
        elif isinstance(leaf, nn.Identity) or (isinstance(leaf, nn.Dropout) and leaf.p == 0):
            continue
        else:
            remedy = "if it computes one of these by a class of its own, give its arrays to MLP.from_layers"
            if isinstance(leaf, nn.Dropout):
                remedy = "the engines drop nothing: where that is what you want, put nn.Identity() in its place"
            raise ValueError(
                f"from_torch: {name!r} is a {type(leaf).__name__}; expected Linear, LayerNorm and "
                f"relu, gelu, silu, mish, tanh or elu modules; {remedy}"
            )
    if len(chain) < 2:
        raise ValueError(f"from_torch: expected at least two Linear layers, found {len(chain)}")
    for before, after in itertools.pairwise(chain):
        if before[0].out_features != after[0].in_features:
            raise ValueError(
                f"from_torch: widths do not chain ({before[0].out_features} -> {after[0].in_features}); "
                "for twin networks in one module pass them as a list: MLP.from_torch([m.q1, m.q2]), and of a module that has "
                "other layers, too, the plain chain alone"
            )
    placement = PLACEMENTS.get(re.sub(r"^(L[NA]*)\1*L$", r"\1", order))
    if spelled and activations and placement is None:
        remedy = "" if order.endswith("L") else "; leave out what follows the last Linear"
        raise ValueError(
            "from_torch: expected every hidden Linear with one activation, and a LayerNorm on the same side of each "
            f"or none, then a Linear; got the order {order} (L linear, N norm, A activation){remedy}"
        )
    for what, found in (("activation", activations), ("eps of the layer norms", eps)):
        if len(found) > 1:
            raise ValueError(f"from_torch: expected one {what} in all layers, got {sorted(found)}; use the same in each")
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


def _check_parameters(name: str, leaf) -> None:
    """Raise ValueError where a weight or a bias is no parameter, since something computes it, or none that a layer has."""
    import torch
    from torch import nn

    norm = isinstance(leaf, nn.LayerNorm)
    for key in ("weight", "bias"):
        optional = key == "bias" or norm
        if key not in leaf._parameters or (leaf._parameters[key] is None and not optional):
            raise ValueError(f"from_torch: {name!r} has a parametrized {key}; remove the parametrization first")
        parameter = leaf._parameters[key]
        if parameter is None:
            continue
        if nn.parameter.is_lazy(parameter):
            raise ValueError(f"from_torch: {name!r} has no weights yet; call the module once first")
        wanted = leaf.normalized_shape if norm else (leaf.out_features, leaf.in_features)[: 1 if key == "bias" else 2]
        plain = parameter.is_floating_point() and parameter.layout is torch.strided
        if not plain or tuple(parameter.shape) != tuple(wanted):
            raise ValueError(
                f"from_torch: {name!r} has a {key} of {parameter.dtype}, {parameter.layout}, shape {list(parameter.shape)}; "
                f"expected dense floating point numbers of shape {list(wanted)}, and a list of modules for an ensemble"
            )


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


def check_forward(module, source: TorchSource) -> None:
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
        for parts, got, wanted in _forwards(module, source, dtype):
            if isinstance(got, Exception):
                error = error or got
                continue
            tried = True
            if got.size == wanted.size and np.allclose(got, wanted, rtol=0, atol=tolerance * np.abs(wanted).max()):
                _check_order(module, len(parts))
                return
        if tried:
            raise ValueError(
                f"from_torch: {name}.forward does not compute the MLP its submodules spell "
                f"(activation {source.activation!r}, norm {source.norm!r}, and nothing else); expected a plain chain of its "
                "layers from concat(obs, action), or concat(obs, x, t)"
            )
    linears = {key: sum(isinstance(m, torch.nn.Linear) for m in child.modules()) for key, child in module.named_children()}
    inner = next((key for key, count in linears.items() if count > 1), "net")
    warnings.warn(
        f"from_torch: {name}.forward takes neither concat(obs, action) nor its parts, so it was not tried whether it "
        f"computes the MLP its submodules spell; if it does, pass those alone, as in MLP.from_torch(module.{inner}). "
        f"Of concat(obs, action) it said: {type(error).__name__}: {error}",
        stacklevel=4,
    )


def _check_order(module, count: int) -> None:
    """Raise ValueError where the names of forward's first arguments, whose concat the layers take, tell of another order
    than the engines'."""
    try:
        names = list(inspect.signature(module.forward).parameters)[:count]
    except (TypeError, ValueError):  # it does not say
        return
    late = names[0] not in OBSERVATIONS and any(name in OBSERVATIONS for name in names[1:])
    if late or any(name in TIMES for name in names[:-1]):
        order = ", ".join(names)
        raise ValueError(
            f"from_torch: {type(module).__name__}.forward takes ({order}), and its layers concat({order}); expected "
            "concat(obs, action), or concat(obs, x, t), as engines compute them; reorder the first layer's columns"
        )


OBSERVATIONS, TIMES = ("obs", "observation", "observations", "state", "states", "s"), ("t", "time", "times", "tau")


def _forwards(module, source: TorchSource, dtype) -> Iterator[tuple[list[int], Any, np.ndarray]]:
    """For every way to call a forward, its parts of the input, what the module computes, or the exception that it raises,
    and what `source` does.

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
            yield parts, error, wanted
            continue
        if isinstance(got, torch.Tensor):
            yield parts, got.double().cpu().numpy().reshape(-1), wanted


def _parts(width: int) -> Iterator[list[int]]:
    """How many numbers go to each argument: of forward(x), forward(obs, action), forward(obs, x, t)."""
    yield [width]
    for obs in range(1, width):
        yield [obs, width - obs]
    for obs in range(1, width - 1):
        yield [obs, width - 1 - obs, 1]
