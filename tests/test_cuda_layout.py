"""Parts of the CUDA engine by C++ programs: index maps (cuda_layout.cpp); packed networks, schedules, the choice among kernels
(cuda_program.cpp); the middle of more distances than a test can have (cuda_median.cpp); and what the CUDA runtime is asked
(cuda_runtime.cpp, by nvcc for its headers). No GPU.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import cubins
import emulator
import pytest


def check(program: Path, source: str, parts: list[str]) -> None:
    if emulator.compiler() is None:
        pytest.skip("no C++ compiler was found (set CXX)")
    emulator.link(program, [emulator.ROOT / path for path in (source, *parts)], lambda source: [], [])
    done = subprocess.run([program], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("source", ["cuda_layout.cpp", "cuda_program.cpp"])
def test_host_side(tmp_path, source):
    check(tmp_path / "host", f"tests/{source}", ["csrc/cuda/pack.cpp", "csrc/cuda/schedule.cpp"])


def test_the_middle_of_very_many_distances(tmp_path):
    check(tmp_path / "median", "tests/cuda_median.cpp", ["tests/emulator/emulator.cpp", "tests/emulator/switch.cpp"])


def test_what_the_runtime_is_asked(tmp_path):
    if cubins.nvcc() is None:
        pytest.skip("no CUDA compiler (nvcc) was found; set CUDACXX")
    sources = [str(emulator.ROOT / path) for path in ("tests/cuda_runtime.cpp", "csrc/cuda/runtime.cpp")]
    includes = [f"-I{emulator.ROOT / path}" for path in ("csrc/cuda", "csrc/include")]
    emulator.run([cubins.nvcc(), "-std=c++17", "-cudart", "none", *includes, *sources, "-o", str(tmp_path / "runtime")])
    done = subprocess.run([tmp_path / "runtime"], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
