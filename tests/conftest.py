"""Fixtures: the engines under test, each through its frontends."""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

# Before NumPy is imported: its threads and the engine's would slow each other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
if "PYTEST_XDIST_WORKER" in os.environ:  # CPUs are shared with the other workers
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # torch lives on the same GPU
for setting in ("VGF_BACKEND", "JAX_ENABLE_X64", "MPLBACKEND"):  # tests make theirs
    os.environ.pop(setting, None)
if not os.access(os.path.expanduser("~"), os.W_OK):  # where Triton keeps what it compiles
    os.environ.setdefault("TRITON_CACHE_DIR", f"{tempfile.gettempdir()}/triton-{os.getuid()}")
MOST_WORKERS, BYTES = 8, 2 << 30  # of so much memory each
ROOT = Path(__file__).parents[1]
LONG = ("test_cuda_sanitized", "test_triton_interpreter", "test_arm", "test_bench_gpu")  # files of tests that take a minute each

# Where `python -m pytest` begins to look, before the installed package.
sys.path[:] = [path for path in sys.path if Path(path).resolve() != ROOT]

import pytest
from engines import BACKENDS, FRONTENDS, Engine

if os.environ.get("TRITON_INTERPRET") == "1":
    import quick_interpreter

    quick_interpreter.hasten()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """What `-n auto` means."""
    from vgf_kernels.threads import available_cpus

    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, ValueError):  # not there, or "max"
        memory = min(memory, int(Path("/sys/fs/cgroup/memory.max").read_text()))  # a container's
    return max(1, min(available_cpus(), MOST_WORKERS, memory // BYTES))


def pytest_addoption(parser) -> None:
    parser.addoption("--part", default="0/1", help="run one of several parts of the tests: 0/3, 1/3 or 2/3")


@pytest.hookimpl(trylast=True)  # of what -k and -m have left
def pytest_collection_modifyitems(config, items) -> None:
    part, of = map(int, config.getoption("--part").split("/"))
    config.hook.pytest_deselected(items=[item for i, item in enumerate(items) if i % of != part])
    items[:] = items[part::of]
    items.sort(key=lambda item: item.path.stem not in LONG)  # or a worker has one of them when all others are done


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
def once(tmp_path_factory) -> Callable[[str, Callable[[Path], object]], Path]:
    """`once(name, make)`: the folder that `make(folder)` has filled, by whichever process of the session came first."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # each worker has a folder of its own in it
        shared = shared.parent

    def made(name: str, make: Callable[[Path], object]) -> Path:
        folder, done = shared / name, shared / f"{name}.done"
        with open(shared / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                folder.mkdir(exist_ok=True)
                make(folder)
                done.touch()
        return folder

    return made


@pytest.fixture
def bench(monkeypatch) -> Callable:
    """Imports a module of bench/."""
    monkeypatch.setattr(sys, "path", [str(ROOT / "bench"), *sys.path])
    return importlib.import_module


@pytest.fixture(scope="session")
def emulator(once):
    """The CUDA engine's kernels, compiled for the host."""
    import emulator

    if emulator.missing():
        pytest.skip(emulator.missing())
    return emulator.Emulated(once("emulator", emulator.build))


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
