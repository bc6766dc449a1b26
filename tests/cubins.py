"""The code of the CUDA kernels: taken from the package or compiled, and what cuobjdump reads in it. No GPU needed."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from vgf_kernels.threads import available_cpus

ROOT = Path(__file__).parents[1]
KERNELS = sorted(ROOT.glob("csrc/cuda/sm80_*.cu"))
HOPPER_KERNELS = sorted(ROOT.glob("csrc/cuda/sm90_*.cu"))
ARCHITECTURES = ("sm_80", "sm_90", "sm_100")
RESERVED = 1024  # bytes of a block's shared memory that are the system's, from compute capability 9.0 on


@dataclass(frozen=True)
class Kernel:
    """A kernel as compiled for one architecture, and what it takes."""

    name: str
    architecture: str
    registers: int  # of a thread
    shared: int  # bytes of a block, besides what a launch asks for
    spills: int  # instructions that write registers to local memory or read them back

    @property
    def function(self) -> str:
        """Its name in the source."""
        return re.search(r"[a-z][a-z_]*_kernel|$", self.name).group()


def nvcc() -> str | None:
    """The CUDA compiler: CUDACXX, else nvcc."""
    return shutil.which(os.environ.get("CUDACXX") or "nvcc")


def cuobjdump() -> str | None:
    """That of the toolkit, or the one that Triton brings along."""
    found, spec = shutil.which("cuobjdump"), importlib.util.find_spec("triton")
    if found is None and spec is not None:
        found = shutil.which("cuobjdump", path=Path(spec.origin).parent / "backends/nvidia/bin")
    return found


def missing() -> str | None:
    """Why there is no code to read here."""
    if cuobjdump() is None:
        return "no cuobjdump was found, neither of a CUDA toolkit nor of Triton"
    if installed() is None and nvcc() is None:
        return "the package was built without the CUDA engine, and no CUDA compiler (nvcc) was found; set CUDACXX"
    return None


def installed() -> Path | None:
    """The package's module of the CUDA engine."""
    spec = importlib.util.find_spec("vgf_kernels._cuda")
    return Path(spec.origin) if spec else None


def collect(folder: Path) -> None:
    """Put the code of all kernels into `folder`: the package's, or where it has none that of the sources, compiled."""
    if installed():
        extract(installed(), folder)
        return
    known = run(nvcc(), "--list-gpu-code").split()
    jobs = [(source, [a for a in ARCHITECTURES if a in known]) for source in KERNELS]
    jobs += [(source, ["sm_90a"]) for source in HOPPER_KERNELS]
    with ThreadPoolExecutor(available_cpus()) as pool:
        list(pool.map(lambda job: compile_into(folder, *job), jobs))


def compile_into(folder: Path, source: Path, architectures: list[str], *options: str) -> None:
    """Compile a source, and put its code into `folder`."""
    fat = folder / f"{source.stem}.fatbin"
    codes = [f"-gencode=arch={a.replace('sm', 'compute')},code={a}" for a in architectures]
    folders = ["-I", ROOT / "csrc/cuda", "-I", ROOT / "csrc/include"]
    run(nvcc(), "-std=c++17", "-O3", *codes, *folders, *options, "-fatbin", source, "-o", fat)
    extract(fat, folder)


def extract(binary: Path, folder: Path) -> None:
    """Put the cubins of a binary, one a source and architecture, into `folder`."""
    run(cuobjdump(), "-xelf", "all", binary, cwd=folder)


def kernels_of(cubin: Path) -> Iterator[Kernel]:
    """What the kernels of a cubin take, by its resource table and the compiler's notes on single instructions."""
    architecture = cubin.name.split(".")[-2]
    table = run(cuobjdump(), "--dump-resource-usage", cubin)
    sections = re.split(r"^\.nv\.info\.", run(cuobjdump(), "-elf", cubin), flags=re.MULTILINE)[1:]
    spills = {text.split(maxsplit=1)[0]: text.count("SpillRefill") for text in sections}
    reserved = RESERVED if int(re.search(r"\d+", architecture).group()) >= 90 else 0
    for name, registers, shared in re.findall(r"Function (\S+):\s+REG:(\d+) \S+ SHARED:(\d+)", table):
        yield Kernel(name, architecture, int(registers), max(int(shared) - reserved, 0), spills[name])


def instructions_of(cubin: Path) -> dict[str, str]:
    """The machine code of the functions of a cubin, by name."""
    parts = re.split(r"^\s*Function : (\S+)$", run(cuobjdump(), "-sass", cubin), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2]))


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """What a command prints. Fails the test where it fails."""
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=cwd)
    if done.returncode:
        pytest.fail(f"{' '.join(map(str, command))}:\n{done.stderr}", pytrace=False)
    return done.stdout
