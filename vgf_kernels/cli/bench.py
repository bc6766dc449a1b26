"""vgf-kernels bench: the benchmark suite of a source checkout."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path


def run(arguments: Sequence[str]) -> int:
    """Run pytest over ./bench with the further arguments. Returns 0, 1 (failures) or 2 (wrong arguments).

    Raises:
        RuntimeError: this is not the root of a checkout, or pytest-benchmark is not installed.
    """
    if not (Path("bench").is_dir() and Path("vgf_kernels").is_dir()):
        raise RuntimeError(
            "no ./bench beside ./vgf_kernels here; the benchmarks come with the source, "
            "not with the installed package: run this in the root of a vgf-kernels checkout"
        )
    if importlib.util.find_spec("pytest_benchmark") is None:
        raise RuntimeError("pytest-benchmark is not installed: pip install 'vgf-kernels[bench]'")
    import pytest

    # In this process: `python -m pytest` would import the sources here instead of the installed package.
    status = pytest.main(["bench/", "--benchmark-only", *arguments])
    return {pytest.ExitCode.OK: 0, pytest.ExitCode.USAGE_ERROR: 2}.get(pytest.ExitCode(status), 1)
