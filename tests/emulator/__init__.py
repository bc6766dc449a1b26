"""The CUDA engine on the host: its kernels, compiled by the C++ compiler against an emulation of what they use."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

from vgf_kernels.threads import available_cpus

ALIGNMENT = 256  # of memory on a device
ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
ENGINE = [
    *sorted(ROOT.glob("csrc/cuda/*.cu")),
    *(path for path in sorted(ROOT.glob("csrc/cuda/*.cpp")) if path.name != "runtime.cpp"),
    *sorted(HERE.glob("*.cpp")),
]
BINDINGS = {"_cuda": ROOT / "python/bindings/cuda.cpp", "_xla_cuda": ROOT / "python/bindings/xla/cuda.cpp"}
FLAGS = [
    "-std=c++17", "-O2", "-march=native", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-U_FORTIFY_SOURCE",
    "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-Wno-pass-failed", "-x", "c++", "-c",
    *(f"-I{path}" for path in (HERE, ROOT / "csrc/cuda", ROOT / "csrc/include")),
]  # fmt: skip


def missing() -> str | None:
    """Why the emulator cannot be built here."""
    if compiler() is None:
        return "no C++ compiler was found (set CXX)"
    if importlib.util.find_spec("pybind11") is None:
        return "the emulator is built with pybind11, which is not installed"
    return None


def build(folder: Path) -> None:
    """Compile the emulated engine into `folder`: a shared library a module. "_xla_cuda" only where JAX is."""
    import pybind11

    headers = [f"-I{path}" for path in (pybind11.get_include(), sysconfig.get_path("include"))]
    bindings = dict(BINDINGS)
    if importlib.util.find_spec("jax") is None:
        del bindings["_xla_cuda"]
    else:
        import jax.ffi

        headers.append(f"-isystem{jax.ffi.include_dir()}")
    engine = compiled(folder, ENGINE, lambda source: [])

    def bind(name: str) -> Path:
        return link(folder / f"{name}.so", [bindings[name]], lambda source: headers, ["-shared", *engine])

    with ThreadPoolExecutor(available_cpus()) as pool:
        list(pool.map(bind, bindings))


def compiled(folder: Path, sources: list[Path], options: Callable[[Path], list[str]]) -> list[str]:
    """Compile sources into `folder`, each with its own options besides FLAGS; the object files."""

    def compile_one(source: Path) -> str:
        target = str(folder / f"{source.parent.name}_{source.name}.o")
        run([compiler(), *FLAGS, *options(source), str(source), "-o", target])
        return target

    with ThreadPoolExecutor(available_cpus()) as pool:
        return list(pool.map(compile_one, sources))


def link(
    target: Path, sources: list[Path], options: Callable[[Path], list[str]], link_options: list[str]
) -> Path:
    """Compile sources beside `target`, and link them to it."""
    run([compiler(), *link_options, *compiled(target.parent, sources, options), "-o", str(target)])
    return target


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

    def __init__(self, folder: Path) -> None:
        libraries = sorted(folder.glob("*.so"))
        self.modules = {library.stem: load(f"emulated.{library.stem}", library) for library in libraries}
        self._settings = [ctypes.CDLL(str(library)) for library in libraries]

    def set_seed(self, seed: int) -> None:
        """The order of blocks and threads, and whether copies (bit 0) and products (bit 1) are done late (0) or at once (1)."""
        for library in self._settings:
            library.emulator_set_seed(seed)

    def set_machine(self, multiprocessors: int, shared_bytes: int, hopper: bool = False) -> None:
        for library in self._settings:
            library.emulator_set_machine(multiprocessors, shared_bytes, hopper)

    def launches_of(self, kernel: str) -> int:
        """How many launches of a kernel there have been."""
        return sum(library.emulator_launches_of(kernel.encode()) for library in self._settings)

    def work_on(self, stream: int) -> int:
        """How many launches, clears and copies a stream has been given. That of torch is 0, that of JAX 1."""
        return sum(library.emulator_work_on(ctypes.c_size_t(stream)) for library in self._settings)

    def install(self, monkeypatch) -> None:
        """Let backend="cuda" mean this module. All memory that the engine takes begins as NaN."""
        import torch

        from vgf_kernels import cuda

        def poison(call, count):
            memory = torch.full((count + ALIGNMENT,), 0xFF, dtype=torch.uint8)
            return memory[-memory.data_ptr() % ALIGNMENT :][:count]

        def poisoned(like, *shape):
            return like.new_full(shape, float("nan"))

        monkeypatch.setattr(cuda, "_cuda", self.modules["_cuda"], raising=False)
        monkeypatch.setattr(cuda, "_absent", None)
        monkeypatch.setattr(cuda, "DEVICE", "cpu")
        monkeypatch.setattr(cuda, "_place", lambda device: (nullcontext(), 0))
        monkeypatch.setattr(cuda, "_capturing", lambda: False)
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
