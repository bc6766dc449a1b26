"""Every CUDA kernel, compiled ahead of time: what ptxas reports is held to what the kernels claim. No GPU needed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
KERNELS = sorted(ROOT.glob("csrc/cuda/sm80_*.cu"))
ARCHITECTURES = ("sm_80", "sm_90", "sm_100")
# The tile kernel has a multiprocessor for itself: 256 threads may take 255 registers each. The others share it.
REGISTERS = {"tile_kernel": 255, "interact_kernel": 128}
OTHERS = 96


def nvcc() -> str | None:
    """The CUDA compiler: CUDACXX, else nvcc."""
    return shutil.which(os.environ.get("CUDACXX") or "nvcc")


def report(source: Path, architecture: str) -> str:
    """What ptxas says about the functions of a source."""
    command = [
        nvcc(), "-std=c++17", "-O3", f"-arch={architecture}", "-I", ROOT / "csrc/cuda", "-I", ROOT / "csrc/include",
        "-Xptxas", "-v", "-cubin", source, "-o", os.devnull,
    ]  # fmt: skip
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def reports():
    if nvcc() is None:
        pytest.skip("no CUDA compiler (nvcc) was found; set CUDACXX")
    help_text = subprocess.run([nvcc(), "--list-gpu-code"], check=True, capture_output=True, text=True).stdout
    jobs = [(source, arch) for arch in ARCHITECTURES if arch in help_text.split() for source in KERNELS]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(jobs, pool.map(lambda job: report(*job), jobs)))


def test_nothing_spills(reports):
    spills = {
        (source.name, arch): found
        for (source, arch), text in reports.items()
        if (found := [n for n in re.findall(r"(\d+) bytes spill", text) if n != "0"])
    }
    assert not spills


def test_registers(reports):
    used = {}
    for (source, arch), text in reports.items():
        for name, count in re.findall(r"entry function '(\S+)'.*?Used (\d+) registers", text, re.DOTALL):
            kernel = re.search(r"[a-z_]+_kernel", name).group()
            used[source.name, arch, name] = int(count), REGISTERS.get(kernel.lstrip("_"), OTHERS)
    assert len(used) >= len(reports)
    assert not {key: pair for key, pair in used.items() if pair[0] > pair[1]}


def test_shared_memory_is_dynamic(reports):
    """The host asks for all of it, so that it can be held to the device's limit before a launch."""
    assert not [key for key, text in reports.items() if re.search(r"[1-9]\d* bytes smem", text)]
