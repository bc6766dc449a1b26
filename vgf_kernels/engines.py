"""The engines in order of priority, which of them can run here, and the dispatch of a call to one of them."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from typing import Any

from . import checks, cpu, cuda, ranges, triton
from .reference import engine as reference

# In the order in which "auto" tries them. Each module has PRECISIONS, DTYPES, DEVICE ("cpu" or "cuda"),
# missing() -> the reason why the engine cannot run here or None, detail() and Engine(arrays, precision).
MODULES: dict[str, Any] = {"cuda": cuda, "triton": triton, "cpu": cpu, "reference": reference}
PLACES = {
    "cpu": ("the CPU", "move them with .cpu()"),
    "cuda": ("a GPU", 'move them with .cuda(), NumPy\'s by way of torch or JAX, or pass backend="auto"'),
}


@dataclass(frozen=True)
class Backend:
    """One engine on this machine.

    Attributes:
        name: what `backend=` and VGF_BACKEND call it.
        available: whether it can run here.
        detail: its instruction set or device; the reason, where it is not available.
    """

    name: str
    available: bool
    detail: str

    def __str__(self) -> str:
        return self.detail if self.available else f"unavailable: {self.detail}"


def backends() -> dict[str, Backend]:
    """Every engine by name, in the order in which "auto" tries them."""
    return {name: _backend(name) for name in checks.ENGINES}


def _backend(name: str) -> Backend:
    missing = MODULES[name].missing()
    if missing is not None:
        return Backend(name, False, missing)
    try:
        return Backend(name, True, MODULES[name].detail())
    except RuntimeError as error:  # VGF_CPU_ISA names what cannot run; a call says so too
        return Backend(name, False, str(error))


def call(arrays: Any, function: str, like: Any, backend: str, precision: str | None, *args: Any) -> Any:
    """Run a checked call on the engine that serves it, in an NVTX range.

    Args:
        arrays: the frontend's array module.
        function: the name of a method of the engines.
        like: the array [B, N, A] that decides about device, dtype and rows.
        args: the arguments of the method.
    """
    for network in args:
        checks.check_concrete(network)
    name = resolve(backend, arrays.device(like), arrays.dtype(like), precision)
    with ranges.span(function, like.shape[0] * like.shape[1]):
        return getattr(MODULES[name].Engine(arrays, precision), function)(*args)


def resolve(backend: str, device: str, dtype: str, precision: str | None) -> str:
    """The name of the engine for arrays on `device` ("cpu", "cuda:0", ...) of `dtype`.

    Raises:
        ValueError: an unknown name; a device or precision that the engine does not serve.
        TypeError: a dtype that it does not compute.
        RuntimeError: the engine is not available, or none is for this device.
    """
    checks.check_engine(backend, precision)
    backend = requested(backend)
    if backend == "auto":
        name = _automatic(device)
    else:
        name = backend
        check_available(name)
    serves = MODULES[name].DEVICE
    if device.split(":")[0] != serves:
        where, remedy = PLACES[serves]
        raise ValueError(f"backend {name!r} computes on {where}, got arrays on {device}; {remedy}")
    check_number_format(name, dtype, precision)
    return name


def requested(backend: str) -> str:
    """What was asked for: `backend`, or what VGF_BACKEND says in the place of "auto"."""
    if backend == "auto":
        backend = os.environ.get("VGF_BACKEND") or "auto"
        if backend not in ("auto", *checks.ENGINES):
            names = ", ".join(("auto", *checks.ENGINES))
            raise ValueError(f"VGF_BACKEND: expected one of {names}, got {backend!r}; correct or unset it")
    return backend


def _automatic(device: str) -> str:
    """The first engine that can run on this device."""
    reasons = {}
    for name, module in MODULES.items():
        if module.DEVICE == device.split(":")[0]:
            reasons[name] = module.missing()
            if reasons[name] is None:
                if name == "reference":
                    _warn_of_reference(reasons["cpu"])
                return name
    why = "; ".join(f"{name}: {reason}" for name, reason in reasons.items()) or "none is made for it"
    raise RuntimeError(
        f"no engine serves arrays on {device} ({why}); move the arrays and networks to the CPU"
    )


def _warn_of_reference(reason: str) -> None:
    """Python shows a warning once for its place in the code, which is here."""
    warnings.warn(
        f'backend "auto" takes the reference, which is slow, since the cpu engine is unavailable: {reason}; pass '
        'backend="reference" if that is what you want',
        RuntimeWarning,
    )


def check_available(name: str) -> None:
    """Raise RuntimeError where the engine of this name cannot run here; "auto" always can."""
    reason = None if name == "auto" else MODULES[name].missing()
    if reason is not None:
        raise RuntimeError(f'backend {name!r} is unavailable: {reason}; use backend="auto" or another engine')


def check_number_format(name: str, dtype: str, precision: str | None) -> None:
    """Raise TypeError or ValueError unless the engine computes this dtype in this precision."""
    dtypes, precisions = MODULES[name].DTYPES, MODULES[name].PRECISIONS
    if dtype not in dtypes:
        remedy = "cast them to float32"
        if name != "reference" and dtype in reference.DTYPES:
            remedy += ' or pass backend="reference"'
        raise TypeError(f"the {name} engine computes {' or '.join(dtypes)}, got {dtype} arrays; {remedy}")
    if precision is not None and precision not in precisions:
        raise ValueError(
            f"precision: the {name} engine has {', '.join(precisions)}, got {precision!r}; "
            "pass one of these or None"
        )
    if name == "reference" and precision == "fp32" and dtype != "float32":
        raise ValueError(
            f'precision: "fp32" needs float32 arrays, got {dtype}; pass precision=None to compute in {dtype}'
        )
