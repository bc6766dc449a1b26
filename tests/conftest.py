"""Fixtures: the engines under test, each through its frontends."""

from __future__ import annotations

import os
from collections.abc import Iterator

# Before NumPy is imported: its threads and the engine's would slow each other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest
from engines import BACKENDS, FRONTENDS, Engine


def pytest_report_header() -> str:
    import vgf_kernels

    lines = [f"{name}: {state}" for name, state in vgf_kernels.backends().items()]
    return "vgf_kernels backends: " + "; ".join(lines)


@pytest.fixture(params=[f"{f}-{b}" for f in FRONTENDS for b in BACKENDS])
def engine(request) -> Engine:
    """Every frontend on every backend that runs everywhere."""
    return Engine(*request.param.split("-"))


@pytest.fixture(params=FRONTENDS)
def cpu(request) -> Engine:
    """The CPU engine through every frontend."""
    return Engine(request.param, "cpu")


@pytest.fixture
def cpu_numpy() -> Engine:
    """The CPU engine, for tests of the engine rather than of the frontend."""
    return Engine("numpy", "cpu")


@pytest.fixture(scope="session")
def emulator(tmp_path_factory):
    """The CUDA engine's kernels, compiled for the host."""
    import emulator

    if emulator.missing():
        pytest.skip(emulator.missing())
    return emulator.Emulated(emulator.build(tmp_path_factory.mktemp("emulator")))


@pytest.fixture
def emulated(emulator, monkeypatch) -> Engine:
    """The torch frontend on the emulated CUDA engine."""
    pytest.importorskip("torch")
    emulator.install(monkeypatch)
    emulator.set_seed(0)
    emulator.set_machine(2, 99 * 1024)
    return Engine("torch", "cuda")


@pytest.fixture
def emulated_jax(emulator, monkeypatch) -> Iterator[Engine]:
    """The JAX frontend on the emulated CUDA engine, in fp32."""
    jax = pytest.importorskip("jax")
    emulator.install_in_jax(monkeypatch)
    emulator.set_seed(0)
    emulator.set_machine(2, 99 * 1024)
    with jax.default_matmul_precision("float32"):
        yield Engine("jax", "cuda")
