"""The engines in order of priority, which of them can run here, and the dispatch of a call to one of them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from . import checks, cpu, ranges
from .definition import ReferenceEngine

NOT_YET = "not part of this version of vgf-kernels"
ENGINES: dict[str, Any] = {"cpu": cpu.CpuEngine, "reference": ReferenceEngine}
PRECISIONS = {"cpu": cpu.PRECISIONS, "reference": ("fp32",)}


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
    if name in ("cuda", "triton"):
        return Backend(name, False, NOT_YET)
    if name == "reference":
        return Backend(name, True, "NumPy")
    if cpu.missing is not None:
        return Backend(name, False, cpu.missing)
    try:
        return Backend(name, True, cpu.isa())
    except RuntimeError as error:  # VGF_CPU_ISA names what cannot run
        return Backend(name, False, str(error))


def call(arrays: Any, function: str, like: Any, backend: str, precision: str | None, *args: Any) -> Any:
    """Run a checked call on the engine that serves it, in an NVTX range.

    Args:
        arrays: the frontend's array module.
        function: the name of a method of the engines.
        like: the array [B, N, A] that decides about device, dtype and rows.
        args: the arguments of the method.
    """
    name = resolve(backend, arrays.device(like), arrays.dtype(like), precision)
    with ranges.span(function, like.shape[0] * like.shape[1]):
        return getattr(ENGINES[name](arrays, precision), function)(*args)


def resolve(backend: str, device: str, dtype: str, precision: str | None) -> str:
    """The name of the engine for arrays on `device` ("cpu", "cuda:0", ...) of `dtype`.

    Raises:
        ValueError: an unknown name; a device or precision that the engine does not serve.
        TypeError: a dtype that it does not compute.
        RuntimeError: the engine is not available, or none is for this device.
    """
    checks.check_engine(backend, precision)
    if backend == "auto":
        backend = os.environ.get("VGF_BACKEND") or "auto"
        if backend not in ("auto", *checks.ENGINES):
            names = ", ".join(("auto", *checks.ENGINES))
            raise ValueError(f"VGF_BACKEND: expected one of {names}, got {backend!r}; correct or unset it")
    name = _automatic(device) if backend == "auto" else backend
    check_available(name)
    if device != "cpu":
        raise ValueError(
            f"backend {name!r} computes on the CPU, got arrays on {device}; move them with .cpu()"
        )
    _check_number_format(name, dtype, precision)
    return name


def _automatic(device: str) -> str:
    if device == "cpu":
        return "cpu" if cpu.missing is None else "reference"
    gpu = "; ".join(f"{name}: {_backend(name).detail}" for name in ("cuda", "triton"))
    raise RuntimeError(
        f"no engine serves arrays on {device} ({gpu}); move the arrays and networks to the CPU"
    )


def check_available(name: str) -> None:
    """Raise RuntimeError where the engine of this name cannot run here; "auto" always can."""
    if name in ("cuda", "triton"):
        reason = NOT_YET
    elif name == "cpu" and cpu.missing is not None:
        reason = cpu.missing
    else:
        return
    raise RuntimeError(f'backend {name!r} is unavailable: {reason}; use backend="auto" or another engine')


def _check_number_format(name: str, dtype: str, precision: str | None) -> None:
    if name == "cpu" and dtype != "float32":
        raise TypeError(
            f"the cpu engine computes float32, got {dtype} arrays; cast them to float32 "
            'or pass backend="reference"'
        )
    if name == "reference" and dtype not in ("float16", "float32", "float64"):
        raise TypeError(f"the reference computes float16, float32 or float64, got {dtype} arrays; cast them")
    if precision is not None and precision not in PRECISIONS[name]:
        has = ", ".join(PRECISIONS[name])
        raise ValueError(
            f"precision: the {name} engine has {has}, got {precision!r}; pass one of these or None"
        )
    if name == "reference" and precision == "fp32" and dtype != "float32":
        raise ValueError(
            f'precision: "fp32" needs float32 arrays, got {dtype}; pass precision=None to compute in {dtype}'
        )
