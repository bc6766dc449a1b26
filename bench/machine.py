"""The machine and the state of the code, for the record beside the figures."""

from __future__ import annotations

import contextlib
import importlib.metadata
import itertools
import os
import platform
import re
import subprocess
from pathlib import Path

import numpy as np

from vgf_kernels.threads import available_cpus

# of the environment, what changes how fast a contestant is
SETTINGS = r"(VGF|OMP|GOMP|MKL|KMP|OPENBLAS|DNNL|ONEDNN|ATEN|TORCH|TRITON|JAX|XLA)_(?!.*(DIR|PATH|HOME))"
FLAGS = ("avx2", "fma", "avx512f", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16")


def describe_machine() -> dict:
    """CPU model, instruction sets that matter here, cores, memory, versions, commit. Linux reads /proc."""
    info = _cpuinfo()
    return {
        "cpu": info.get("model name", platform.processor() or platform.machine()),
        "flags": [flag for flag in FLAGS if flag in info.get("flags", "").split()],
        "cores": os.cpu_count(),
        "usable_cores": available_cpus(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "commit": _commit(),
        "settings": {k: v for k, v in os.environ.items() if re.match(SETTINGS, k)},
    }


def versions(*packages: str) -> dict[str, str]:
    """Of those that are installed."""
    found = {}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def slug(text: str) -> str:
    """A file name's worth of a machine's name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def new_path(folder: Path, name: str) -> Path:
    """folder/name.json, or with -2, -3, ... where there is one: no record is written over."""
    numbers = itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
    return next(path for number in numbers if not (path := folder / f"{name}{number}.json").exists())


def available_memory() -> int:
    """Bytes that a new process could use."""
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(fields["MemAvailable"].split()[0]) * 1024


def _cpuinfo() -> dict[str, str]:
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return {}
    first = path.read_text().split("\n\n")[0]
    return {
        key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())
    }


def _commit() -> str:
    """Commit of the checkout, with "+changes" where the tree differs from it; "unknown" outside git."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + (
            "+changes" if git("status", "--porcelain", "--untracked-files=no") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
