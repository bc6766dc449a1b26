"""The CUDA engine on the host: its kernels, compiled by the C++ compiler against an emulation of what they use."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
SOURCES = [
    *sorted(ROOT.glob("csrc/cuda/*.cu")),
    *(path for path in sorted(ROOT.glob("csrc/cuda/*.cpp")) if path.name != "runtime.cpp"),
    *sorted(HERE.glob("*.cpp")),
]
BINDINGS = {"_cuda": ROOT / "python/bindings/cuda.cpp", "_xla_cuda": ROOT / "python/bindings/xla/cuda.cpp"}
FLAGS = [
    "-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-U_FORTIFY_SOURCE",
    "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-x", "c++", "-c",
]  # fmt: skip


def missing() -> str | None:
    """Why the emulator cannot be built here."""
    if compiler() is None:
        return "no C++ compiler was found (set CXX)"
    if importlib.util.find_spec("pybind11") is None:
        return "the emulator is built with pybind11, which is not installed"
    return None


def build(folder: Path) -> dict[str, Path]:
    """Compile the emulated engine into `folder`: shared libraries by module. "_xla_cuda" only where JAX is."""
    import pybind11

    cxx = compiler()
    includes = [
        HERE,
        ROOT / "csrc/cuda",
        ROOT / "csrc/include",
        pybind11.get_include(),
        sysconfig.get_path("include"),
    ]
    options = [*FLAGS, *(f"-I{path}" for path in includes)]
    bindings = dict(BINDINGS)
    if importlib.util.find_spec("jax") is None:
        del bindings["_xla_cuda"]
    else:
        import jax.ffi

        options.append(f"-isystem{jax.ffi.include_dir()}")

    def compile_one(source: Path) -> Path:
        target = folder / f"{source.parent.name}_{source.name}.o"
        run([cxx, *options, str(source), "-o", str(target)])
        return target

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        bound = {name: pool.submit(compile_one, source) for name, source in bindings.items()}
        objects = list(pool.map(compile_one, SOURCES))
    libraries = {name: folder / f"{name}.so" for name in bindings}
    for name, library in libraries.items():
        run([cxx, "-shared", *map(str, objects), str(bound[name].result()), "-o", str(library)])
    return libraries


def compiler() -> str | None:
    """The C++ compiler: CXX, else c++."""
    return shutil.which(os.environ.get("CXX") or "c++")


def run(command: list[str]) -> None:
    """Run a compiler; RuntimeError with its messages where it fails."""
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        raise RuntimeError(f"{command[0]} failed on {command[-3]}")


def load(name: str, library: Path):
    """Import a shared library as a module of this name."""
    spec = importlib.util.spec_from_file_location(name, library)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Emulated:
    """The emulated modules in the place of vgf_kernels._cuda and _xla_cuda, serving arrays on the CPU."""

    def __init__(self, libraries: dict[str, Path]) -> None:
        self.modules = {name: load(f"emulated.{name}", library) for name, library in libraries.items()}
        self._settings = [ctypes.CDLL(str(library)) for library in libraries.values()]

    def set_seed(self, seed: int) -> None:
        """The order of a block's threads, and whether copies are done late (even seeds) or at once."""
        for library in self._settings:
            library.emulator_set_seed(seed)

    def set_machine(self, multiprocessors: int, shared_bytes: int) -> None:
        for library in self._settings:
            library.emulator_set_machine(multiprocessors, shared_bytes)

    def install(self, monkeypatch) -> None:
        """Let backend="cuda" mean this module. All memory that the engine takes begins as NaN."""
        import torch

        from vgf_kernels import cuda

        def poison(call, count):
            return torch.full((count,), 0xFF, dtype=torch.uint8)

        def poisoned(like, *shape):
            return like.new_full(shape, float("nan"))

        monkeypatch.setattr(cuda, "_cuda", self.modules["_cuda"], raising=False)
        monkeypatch.setattr(cuda, "_absent", None)
        monkeypatch.setattr(cuda, "DEVICE", "cpu")
        monkeypatch.setattr(cuda, "_place", lambda device: (nullcontext(), 0))
        monkeypatch.setattr(cuda, "_capturing", lambda device: False)
        monkeypatch.setattr(cuda, "_finish", lambda device: None)
        monkeypatch.setattr(cuda, "_empty", poisoned)
        monkeypatch.setattr(cuda._Call, "_bytes", poison)

    def install_in_jax(self, monkeypatch) -> None:
        """Let backend="cuda" of the JAX frontend mean the emulated handlers, registered for the CPU."""
        from dataclasses import replace

        from vgf_kernels import cuda
        from vgf_kernels.jax import platforms

        emulated = replace(
            platforms.ENGINES["cuda"],
            platform="cpu", registry="cpu", prefix="vgf_emulated_", module="emulated._xla_cuda",
        )  # fmt: skip
        monkeypatch.setitem(platforms.ENGINES, "cuda", emulated)
        monkeypatch.setattr(cuda, "_cuda", self.modules["_cuda"], raising=False)
        monkeypatch.setattr(cuda, "_absent", None)
        monkeypatch.setattr(cuda, "DEVICE", "cpu")
