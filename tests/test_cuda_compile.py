"""Every CUDA kernel, compiled ahead of time: what ptxas reports is held to what the kernels claim. No GPU needed."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
KERNELS = sorted(ROOT.glob("csrc/cuda/sm80_*.cu"))
HOPPER_KERNELS = sorted(ROOT.glob("csrc/cuda/sm90_*.cu"))
ARCHITECTURES = ("sm_80", "sm_90", "sm_100")
# The tile and latency kernels have a multiprocessor for themselves: 256 threads may take 255 registers each. The others
# share it. Of Hopper's tile kernel it is what 384 threads start with; setmaxnreg moves them.
REGISTERS = {
    "tile_kernel": 255, "interact_kernel": 128, "hopper_tile_kernel": 168, "hopper_latency_kernel": 255,
}  # fmt: skip
OTHERS = 96
# What must be in the code of Hopper's kernels, and what must not: products on the tensor cores of warpgroups, bulk copies,
# registers moved; or products of warps with transposed operands, stores that tell a barrier of the other block.
INSTRUCTIONS = {
    "sm90_tile_bf16": (
        [*(f"HGMMA.64x{n}x16.F32.BF16" for n in (32, 64, 128, 256)),
         "UBLKCP", "USETMAXREG.DEALLOC.CTAPOOL", "USETMAXREG.TRY_ALLOC.CTAPOOL"],
        "HMMA",
    ),
    "sm90_latency_bf16": (["HMMA.16816.F32.BF16", "LDSM.16.MT88.4", "STAS.64", "STAS.128", "LDGSTS"], "HGMMA"),
}  # fmt: skip


def nvcc() -> str | None:
    """The CUDA compiler: CUDACXX, else nvcc."""
    return shutil.which(os.environ.get("CUDACXX") or "nvcc")


def report(source: Path, architecture: str, output: str | Path = os.devnull) -> str:
    """What ptxas says about the functions of a source."""
    code = f"-gencode=arch={architecture.replace('sm', 'compute')},code={architecture}"
    command = [
        nvcc(), "-std=c++17", "-O3", code, "-I", ROOT / "csrc/cuda", "-I", ROOT / "csrc/include",
        "-Xptxas", "-v", "-cubin", source, "-o", output,
    ]  # fmt: skip
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def cubins(tmp_path_factory):
    """A folder of the Hopper kernels' code, by the name of the source."""
    return tmp_path_factory.mktemp("cubins")


@pytest.fixture(scope="module")
def reports(cubins):
    if nvcc() is None:
        pytest.skip("no CUDA compiler (nvcc) was found; set CUDACXX")
    help_text = subprocess.run([nvcc(), "--list-gpu-code"], check=True, capture_output=True, text=True).stdout
    jobs = [(source, arch) for arch in ARCHITECTURES if arch in help_text.split() for source in KERNELS]
    outputs = {(source, "sm_90a"): cubins / f"{source.stem}.cubin" for source in HOPPER_KERNELS}
    jobs = [*outputs, *jobs]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        texts = pool.map(lambda job: report(*job, outputs.get(job, os.devnull)), jobs)
        return dict(zip(jobs, texts))


def disassembler() -> str | None:
    """cuobjdump: of the toolkit, or the one that Triton brings along."""
    found = shutil.which("cuobjdump")
    spec = importlib.util.find_spec("triton")
    if found is None and spec is not None:
        found = shutil.which("cuobjdump", path=Path(spec.origin).parent / "backends/nvidia/bin")
    return found


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


def test_products_of_hopper_kernels_are_not_waited_for_one_by_one(reports):
    """ptxas warns (C75..) where it serialises wgmma, or passes over setmaxnreg."""
    for source in HOPPER_KERNELS:
        assert not re.findall(r".*\(C\d+\).*", reports[source, "sm_90a"])


def test_instructions_of_hopper_kernels(reports, cubins):
    if disassembler() is None:
        pytest.skip("no cuobjdump was found, neither of a CUDA toolkit nor of Triton")
    assert set(INSTRUCTIONS) == {source.stem for source in HOPPER_KERNELS}
    for source, (present, absent) in INSTRUCTIONS.items():
        command = [disassembler(), "-sass", cubins / f"{source}.cubin"]
        code = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        assert not [name for name in present if not re.search(rf"\b{re.escape(name)}\b", code)]
        assert not re.search(rf"\b{absent}\b", code)
