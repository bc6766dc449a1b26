"""Parts of the CUDA engine by C++ programs: index maps, packed networks, schedules (tests/cuda_layout.cpp), and the middle of
more distances than a test can have (tests/cuda_median.cpp). No GPU, no nvcc.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import emulator
import pytest


def check(program: Path, source: str, parts: list[str]) -> None:
    if emulator.compiler() is None:
        pytest.skip("no C++ compiler was found (set CXX)")
    emulator.link(program, [emulator.ROOT / path for path in (source, *parts)], lambda source: [], [])
    done = subprocess.run([program], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_host_side(tmp_path):
    check(tmp_path / "layout", "tests/cuda_layout.cpp", ["csrc/cuda/pack.cpp", "csrc/cuda/schedule.cpp"])


def test_the_middle_of_very_many_distances(tmp_path):
    check(tmp_path / "median", "tests/cuda_median.cpp", ["tests/emulator/emulator.cpp", "tests/emulator/switch.cpp"])
