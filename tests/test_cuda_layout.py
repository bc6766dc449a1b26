"""The CUDA engine's plain C++, by tests/cuda_layout.cpp: index maps, packed networks, schedules. No GPU, no nvcc."""

from __future__ import annotations

import subprocess

import emulator
import pytest


def test_host_side(tmp_path):
    if emulator.compiler() is None:
        pytest.skip("no C++ compiler was found (set CXX)")
    program = tmp_path / "cuda_layout"
    sources = [
        emulator.ROOT / path
        for path in ("tests/cuda_layout.cpp", "csrc/cuda/pack.cpp", "csrc/cuda/schedule.cpp")
    ]
    includes = [f"-I{emulator.ROOT / path}" for path in ("csrc/cuda", "csrc/include")]
    emulator.run(
        [emulator.compiler(), "-std=c++17", "-O1", *includes, *map(str, sources), "-o", str(program)]
    )
    done = subprocess.run([program], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
