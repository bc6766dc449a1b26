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
    ROOT / "python/bindings/cuda.cpp",
]
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


def build(folder: Path) -> Path:
    """Compile the emulated engine into `folder`; the shared library."""
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
    library = folder / "_cuda.so"

    def compile_one(source: Path) -> Path:
        target = folder / f"{source.name}.o"
        run([cxx, *options, str(source), "-o", str(target)])
        return target

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_one, SOURCES))
    run([cxx, "-shared", *map(str, objects), "-o", str(library)])
    return library


def compiler() -> str | None:
    """The C++ compiler: CXX, else c++."""
    return shutil.which(os.environ.get("CXX") or "c++")


def run(command: list[str]) -> None:
    """Run a compiler; RuntimeError with its messages where it fails."""
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        raise RuntimeError(f"{command[0]} failed on {command[-3]}")


class Emulated:
    """The emulated module in the place of vgf_kernels._cuda, serving torch tensors on the CPU."""

    def __init__(self, library: Path) -> None:
        spec = importlib.util.spec_from_file_location("emulated._cuda", library)
        self.module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.module)
        self._settings = ctypes.CDLL(str(library))

    def set_seed(self, seed: int) -> None:
        """The order of threads, and whether copies (bit 0) and products (bit 1) are done late (0) or at once (1)."""
        self._settings.emulator_set_seed(seed)

    def set_machine(self, multiprocessors: int, shared_bytes: int, hopper: bool = False) -> None:
        self._settings.emulator_set_machine(multiprocessors, shared_bytes, hopper)

    def launches_of(self, kernel: str) -> int:
        """How many launches of a kernel there have been."""
        return self._settings.emulator_launches_of(kernel.encode())

    def install(self, monkeypatch) -> None:
        """Let backend="cuda" mean this module. All memory that the engine takes begins as NaN."""
        import torch

        from vgf_kernels import cuda

        def poison(call, count):
            return torch.full((count,), 0xFF, dtype=torch.uint8)

        def poisoned(like, *shape):
            return like.new_full(shape, float("nan"))

        monkeypatch.setattr(cuda, "_cuda", self.module, raising=False)
        monkeypatch.setattr(cuda, "_absent", None)
        monkeypatch.setattr(cuda, "DEVICE", "cpu")
        monkeypatch.setattr(cuda, "_place", lambda device: (nullcontext(), 0))
        monkeypatch.setattr(cuda, "_capturing", lambda device: False)
        monkeypatch.setattr(cuda, "_finish", lambda device: None)
        monkeypatch.setattr(cuda, "_empty", poisoned)
        monkeypatch.setattr(cuda._Call, "_bytes", poison)
