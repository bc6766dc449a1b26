"""Compiling the Triton engine's kernels for GPUs that are not here, and reading what they take."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import triton
import triton.backends.nvidia
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from vgf_kernels.triton.launch import Options

ARCHITECTURES = {"sm_80": 80, "sm_90": 90, "sm_100": 100, "sm_120": 120, "gfx942": 0}  # as plan.Gpu has them
ALIGNED = ("hidden", "edges", "widths", "small", "large", "table")  # what the engine allocates
TYPES = {"widths": "*i32", "table": "*i64", "counts": "*i64", "following": "*i32", "equals": "*i32"}
FLOATS = (
    "eps", "rate", "alpha", "sigma", "low", "high", "correction_1", "correction_2", "discount", "temperature",
)  # fmt: skip
VERSION = tuple(map(int, triton.__version__.split(".")[:2]))
CUOBJDUMP = Path(triton.backends.nvidia.__file__).parent / "bin" / "cuobjdump"


@dataclass(frozen=True)
class Usage:
    """What a compiled kernel takes: registers of a thread, bytes (AMD: registers) it spills, shared memory in bytes."""

    registers: int
    spilled: int
    shared: int


def compile_for(target: str, kernel: Any, constants: dict[str, Any], options: Options, precision: str) -> Any:
    """Compile as vgf_kernels.triton.launch would have it compiled on that GPU."""
    if target.startswith("gfx") and VERSION < (3, 5):
        pytest.skip(f"Triton {triton.__version__} comes without the linker for AMD's GPUs")
    signature = {name: _type(kernel, name, constants, precision) for name in kernel.arg_names}
    attributes = {
        (i,): [["tt.divisibility", 16]] for i, name in enumerate(kernel.arg_names) if name in ALIGNED
    }
    architecture = ARCHITECTURES[target]
    return triton.compile(
        ASTSource(kernel, signature, constants, attributes),
        target=GPUTarget("cuda", architecture, 32) if architecture else GPUTarget("hip", target, 64),
        options={"num_warps": options.num_warps, "num_stages": options.num_stages, "enable_fp_fusion": True},
    )


def overtaken(compiled: Any) -> list[str]:
    """Stores and barriers that are passed while asynchronous copies are under way; see test_triton_compile.py."""
    found, under_way = [], False
    for line in compiled.asm["ttgir"].splitlines():
        if "ttg.async_copy_global_to_local" in line:
            under_way = True
        elif re.search(r"ttg\.async_wait .*num = 0 ", line):
            under_way = False
        elif under_way and re.search(r"tt\.store|tt\.atomic|(ttg|gpu)\.(local_)?barrier", line):
            found.append(line.strip())
    return found


def usage_of(compiled: Any) -> Usage:
    """From the cubin's resource table, or the AMD assembly's notes."""
    shared = compiled.metadata.shared
    if "cubin" not in compiled.asm:
        notes = dict(re.findall(r"\.(vgpr_count|vgpr_spill_count): *(\d+)", compiled.asm["amdgcn"]))
        return Usage(int(notes["vgpr_count"]), int(notes["vgpr_spill_count"]), shared)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        table = subprocess.run(
            [CUOBJDUMP, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    registers, stack = re.search(r"REG:(\d+) STACK:(\d+)", table).groups()
    return Usage(int(registers), int(stack), shared)


def _type(kernel: Any, name: str, constants: dict[str, Any], precision: str) -> str:
    if name in constants:
        return "constexpr"
    if name in FLOATS:
        return "fp32"
    if name in kernel.do_not_specialize:
        return "i32"
    if name in ("hidden", "large"):
        return "*bf16" if precision == "bf16" else "*fp32"
    return TYPES.get(name, "*fp32")
