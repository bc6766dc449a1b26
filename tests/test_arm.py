"""The CPU engine on 64-bit Arm, compiled across and run by an emulator, where both are installed.

tests/stress.cpp computes everything on NEON's instructions and on the compiler's plain vectors, the code of the `scalar` set,
which the golden files and the reference are held to wherever the tests run.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64-static"
LIBRARIES = "/usr/aarch64-linux-gnu"  # where Debian's cross compilers have them

pytestmark = [
    pytest.mark.skipif(platform.machine() == "aarch64", reason="this machine is one: test_isa.py has its sets"),
    *(
        pytest.mark.skipif(shutil.which(tool) is None, reason=f"{tool} is not installed")
        for tool in ("cmake", COMPILER, EMULATOR)
    ),
]


def run(*command: str, **environment: str) -> str:
    done = subprocess.run(
        command, env={**os.environ, **environment}, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def test_neon_computes_what_plain_vectors_do(tmp_path):
    """Built by the project's own rules, stopping at undefined behaviour."""
    target = ["-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64", f"-DCMAKE_CXX_COMPILER={COMPILER}"]
    run("cmake", "-S", str(ROOT), "-B", str(tmp_path), *target, "-DVGF_SANITIZE=undefined")
    run("cmake", "--build", str(tmp_path), "-j2")

    def results(wanted: str, isa: str) -> np.ndarray:
        file = tmp_path / isa
        stress = [EMULATOR, "-L", LIBRARIES, str(tmp_path / "vgf_stress"), str(file)]
        assert run(*stress, VGF_CPU_ISA=wanted) == f"results on {isa}\n"
        return np.fromfile(file, np.float32).astype(np.float64)

    neon, scalar = results("", "neon"), results("scalar", "scalar")  # NEON is the default
    assert scalar.size > 200_000
    assert np.isfinite(scalar).all()
    # Where a particle crosses a relu, or a gradient nears zero, the two may part; the rest is rounding.
    error = np.abs(neon - scalar) / (1 + np.abs(scalar))
    assert np.mean(error <= 1e-5) >= 0.999
    assert np.mean(error <= 1e-3) >= 0.9999
