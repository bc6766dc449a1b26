"""The CUDA engine, emulated, under the sanitizers of the C++ compiler: races of a block, memory out of bounds, addresses that
a GPU would refuse. tests/cuda_stress.cpp calls every entry point.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import emulator
import pytest

STRESS = emulator.ROOT / "tests/cuda_stress.cpp"


def build(folder: Path, options: list[str], besides: dict[str, list[str]]) -> list[str]:
    """The command that runs tests/cuda_stress.cpp, compiled with `options`, or those of its name in `besides`."""
    if emulator.compiler() is None:
        pytest.skip("no C++ compiler was found (set CXX)")
    probe = folder / "probe.cpp"
    probe.write_text("int main() { return 0; }")
    try:
        emulator.run([emulator.compiler(), *options, str(probe), "-o", str(folder / "probe")])
    except RuntimeError:
        pytest.skip(f"the C++ compiler does not link {' '.join(options)}")
    program = emulator.link(
        folder / "cuda_stress", [*emulator.ENGINE, STRESS], lambda source: besides.get(source.name, options), options
    )
    setarch = shutil.which("setarch")  # ThreadSanitizer does not take every layout of memory
    return [*([setarch, "-R"] if setarch else []), str(program)]


def run(command: list[str], *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([*command, *arguments], check=False, capture_output=True, text=True)


def test_no_races_and_no_undefined_behaviour(tmp_path):
    races = "-DEMULATOR_FIND_RACES"
    options = ["-fsanitize=thread,undefined", "-fno-sanitize-recover=undefined", races]
    # what the emulator does behind the threads' backs is nobody's access
    command = build(tmp_path, options, {"emulator.cpp": [races]})
    found, missed = run(command, "race"), run(command, "no-race")
    assert found.returncode == 66 and "data race" in found.stderr, found.stderr
    assert missed.returncode == 0, missed.stderr
    done = run(command)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_memory_out_of_bounds(tmp_path):
    command = build(tmp_path, ["-fsanitize=address"], {})
    for done in (run(command), run(command, "tiles")):
        assert done.returncode == 0, done.stdout + done.stderr
