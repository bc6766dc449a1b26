"""The CUDA engine, emulated: accesses that nothing orders (emulator/races.hpp), and what the C++ compiler's sanitizers find,
memory out of bounds, undefined behaviour, addresses that a GPU would refuse. tests/cuda_stress.cpp calls every entry point.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import emulator
import pytest

STRESS, CASES = (emulator.ROOT / "tests" / name for name in ("cuda_stress.cpp", "cuda_races.cpp"))
PARTS = [pytest.param((), id="general"), pytest.param(("tiles",), id="tiles")]
FOUND = 66  # exit status of a program with a race


def check(folder: Path, options: list[str]) -> None:
    """Skip where no program can be built with `options`."""
    if emulator.compiler() is None:
        pytest.skip("no C++ compiler was found (set CXX)")
    probe = folder / "probe.cpp"
    probe.write_text("int main() { return 0; }")
    try:
        emulator.run([emulator.compiler(), *options, str(probe), "-o", str(folder / "probe")])
    except RuntimeError:
        pytest.skip(f"the C++ compiler does not link {' '.join(options)}")


def run(*command: str | Path) -> subprocess.CompletedProcess:
    return subprocess.run([str(part) for part in command], check=False, capture_output=True, text=True)


@pytest.fixture(scope="session")
def finding_races(once) -> Path:
    """The folder with the programs of both sources; undefined behaviour ends them, too."""
    undefined = ["-fsanitize=undefined", "-fno-sanitize-recover=undefined"]

    def options(source: Path) -> list[str]:
        own = source.stem in ("emulator", "products", "races", "switch")  # what the emulator does is nobody's access
        watched = [*undefined, "-fsanitize=thread", "-O1"]  # more would drop accesses before they are noted
        return ["-DEMULATOR_FIND_RACES", "-g1", *([] if own else watched)]

    def make(folder: Path) -> None:
        check(folder, undefined)
        if "clang" in run(emulator.compiler(), "--version").stdout:
            pytest.skip("accesses are found by GCC's calls; Clang's are others")
        engine = emulator.compiled(folder, emulator.ENGINE, options)
        for source in (STRESS, CASES):
            emulator.link(folder / source.stem, [source], options, [*undefined, *engine])

    return once("races", make)


def test_races_are_told_from_what_is_right(finding_races):
    program = finding_races / CASES.stem
    cases = run(program).stdout.split()
    assert len(cases) == 11
    for case in cases:
        wrong, right = run(program, case, "wrong"), run(program, case, "right")
        assert wrong.returncode == FOUND and "race: " in wrong.stderr, case
        assert right.returncode == 0, f"{case}: {right.stderr}"


@pytest.mark.parametrize("part", PARTS)
def test_no_races_and_no_undefined_behaviour(finding_races, part):
    done = run(finding_races / STRESS.stem, *part)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def finding_addresses(once) -> Path:
    """The program that tells memory out of bounds."""
    options = ["-fsanitize=address"]

    def make(folder: Path) -> None:
        check(folder, options)
        emulator.link(folder / STRESS.stem, [*emulator.ENGINE, STRESS], lambda source: [*options, "-O1"], options)

    return once("addresses", make) / STRESS.stem


@pytest.mark.parametrize("part", PARTS)
def test_no_memory_out_of_bounds(finding_addresses, part):
    done = run(finding_addresses, *part)
    assert done.returncode == 0, done.stdout + done.stderr
