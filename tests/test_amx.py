"""The CPU engine's products on AMX tiles, by plain C++ in the place of the instructions (tests/amx.cpp)."""

from __future__ import annotations

import subprocess

import emulator
import pytest


def test_products(tmp_path):
    compiler = emulator.compiler()
    if compiler is None:
        pytest.skip("no C++ compiler was found (set CXX)")
    sources = [emulator.ROOT / path for path in ("tests/amx.cpp", "csrc/cpu/isa/avx512amx.cpp")]
    includes = [f"-I{emulator.ROOT / path}" for path in ("csrc", "csrc/include", "tests")]
    options = ["-std=c++17", "-O2", "-DVGF_EMULATE_AMX", "-fsanitize=undefined", "-fno-sanitize-recover=undefined"]
    emulator.run([compiler, *options, *includes, *map(str, sources), "-o", str(tmp_path / "amx")])
    done = subprocess.run([tmp_path / "amx"], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
