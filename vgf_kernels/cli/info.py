"""vgf-kernels info: what can run here, and why the rest cannot."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform

from .. import __version__, cpu, ranges
from ..engines import backends, requested
from ..threads import threads

PACKAGES = ("numpy", "torch", "triton", "jax", "jaxlib")
HANDLERS = {"cpu": "_xla", "cuda": "_xla_cuda"}
VARIABLES = {
    "VGF_BACKEND": "forces an engine",
    "VGF_CPU_ISA": "forces an instruction set",
    "VGF_CPU_DENSE": "1: the cpu engine computes all units, those that relu switches off, too",
    "VGF_NUM_THREADS": "threads of the NumPy and JAX frontends",
    "OMP_NUM_THREADS": "the same, where VGF_NUM_THREADS is not set",
    "VGF_TRITON_AUTOTUNE": "0: the triton engine measures no configurations",
    "VGF_CACHE_DIR": "where the triton engine keeps what it has measured",
}


def run() -> int:
    """Print the report; returns 0."""
    print(f"vgf-kernels {__version__}")
    _section("versions", {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES})
    _section(
        'engines, in the order "auto" tries them', {name: str(engine) for name, engine in backends().items()}
    )
    _section("cpu engine", {"instruction sets": _instruction_sets(), "threads": _threads()})
    _section("jax frontend", {engine: _handlers(module) for engine, module in HANDLERS.items()})
    _section("environment", {name: _variable(name, meaning) for name, meaning in VARIABLES.items()})
    _section("profiling", {"NVTX ranges": "on" if ranges.nvtx else "off: package nvtx is not installed"})
    return 0


def _section(title: str, rows: dict[str, str]) -> None:
    width = max(map(len, rows))
    print(f"\n{title}")
    for name, text in rows.items():
        print(f"  {name:<{width}}  {text}")


def _version(package: str) -> str:
    """The installed version, found without importing the package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _instruction_sets() -> str:
    if cpu.missing():
        return f"none: {cpu.missing()}"
    return ", ".join(cpu._native.supported_isas())


def _threads() -> str:
    try:
        return f"{threads()} (vgf_kernels.torch follows torch.set_num_threads instead)"
    except ValueError as error:
        return f"unusable: {error}"


def _handlers(module: str) -> str:
    try:
        version = importlib.import_module(f"vgf_kernels.{module}").api_version()
    except ImportError as error:
        return f"none: {error}"
    return f"XLA handlers, FFI API {'.'.join(map(str, version))}"


def _variable(name: str, meaning: str) -> str:
    if name == "VGF_BACKEND":
        try:
            requested("auto")
        except ValueError as error:
            return f"unusable: {error}"
    return f"{os.environ.get(name) or 'not set'} ({meaning})"
