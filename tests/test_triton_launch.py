"""Launching compiled kernels again: which calls may share one, on a stand-in for the kernel and the GPU."""

from __future__ import annotations

import contextlib
import math
import threading
import weakref

import pytest
import torch

pytest.importorskip("triton")

from triton.runtime.errors import OutOfResources, PTXASError

from vgf_kernels import MLP
from vgf_kernels.torch.arrays import outlasting
from vgf_kernels.triton import launch, packed
from vgf_kernels.triton.launch import Options

GPU = torch.device("cuda", 0)


class Kernel:
    """Notes what is compiled, and what then runs."""

    def __init__(self) -> None:
        self.compiled, self.ran = 0, []

    def __getitem__(self, grid):
        def first(*arguments, **options):
            self.compiled += 1
            return Compiled(self)

        return first


class Compiled:
    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel

    def __getitem__(self, grid):
        return lambda *arguments: self.kernel.ran.append((grid, arguments))


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(launch, "_compiled", {})
    monkeypatch.setattr(launch.INTERPRETED, "value", False)


def run(kernel, *arguments, constants=(1,), options=Options(), device=GPU) -> None:  # noqa: B008
    launch.launch(kernel, (3, 1), device, options, arguments, constants)


def test_a_compiled_kernel_is_found_again_whatever_the_numbers_and_sizes():
    kernel = Kernel()
    run(kernel, torch.zeros(4), 1, 0.5)
    run(kernel, torch.zeros(9)[1:], 16, 1.0)
    assert kernel.compiled == 1
    ((grid, arguments),) = kernel.ran
    assert grid == (3, 1, 1) and arguments[1:] == (16, 1.0, 1)


def test_what_it_is_compiled_for_is_compiled_anew():
    kernel = Kernel()
    x = torch.zeros(4)
    run(kernel, x)
    run(kernel, x, constants=(2,))
    run(kernel, x, options=Options(num_warps=8))
    run(kernel, x, device=torch.device("cuda", 1))
    run(kernel, x.bfloat16())
    assert kernel.compiled == 5


def test_arrays_beyond_two_gigabytes_on_an_amd_gpu(monkeypatch):
    """There, Triton compiles 32-bit offsets into a kernel whose first call had smaller ones."""
    small, large = torch.empty(8, device="meta"), torch.empty(2**29, device="meta")
    for hip, compiled in ((None, 1), ("6.4", 2)):
        monkeypatch.setattr(torch.version, "hip", hip)
        monkeypatch.setattr(launch, "_compiled", {})
        kernel = Kernel()
        for array in (small, large, small, large):
            run(kernel, array)
        assert kernel.compiled == compiled


def test_capture_is_asked_of_the_arrays_device(monkeypatch):
    current = []

    @contextlib.contextmanager
    def device(wanted):
        current.append(wanted)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: current == [GPU])
    assert launch.is_capturing(GPU)
    assert not launch.is_capturing(torch.device("cuda", 1))
    assert not launch.is_capturing(torch.device("cpu"))
    assert launch.timer(GPU, lambda config: None) is None


def test_a_configuration_that_cannot_run_takes_for_ever(monkeypatch):
    class Event:
        def __init__(self, enable_timing: bool) -> None:
            pass

        def record(self, stream) -> None:
            pass

    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    for error in (
        OutOfResources(2, 1, "shared memory"),
        PTXASError("too many registers"),
        torch.cuda.OutOfMemoryError("scratch memory"),
        RuntimeError("PassManager::run failed"),
    ):

        def fail(config, error=error):
            raise error

        assert launch.timer(GPU, fail)(None) == math.inf


def test_a_captured_table_outlives_the_parameters_it_names():
    """A graph's replay reads the table at its address, whatever has become of the parameters since."""
    critic = MLP.from_torch(torch.nn.Sequential(torch.nn.Linear(3, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1)))
    cpu = torch.device("cpu")
    for captures, survives in ((False, False), (True, True)):
        table = weakref.ref(packed._table(critic, cpu, False))
        assert packed._table(critic, cpu, captures) is table()
        for parameter in critic.tensors():
            parameter.data = parameter.data.clone()
        packed._table(critic, cpu, False)
        assert (table() is not None) == survives


def test_what_is_kept_is_allocated_by_another_thread(monkeypatch):
    """torch routes what the current thread allocates to the memory of its graph."""
    waited = []

    class Stream:
        def synchronize(self):
            waited.append(threading.get_ident())

    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream())
    assert outlasting(threading.get_ident, torch.device("cpu")) == threading.get_ident() and not waited
    other = outlasting(threading.get_ident, GPU)
    assert other != threading.get_ident() and waited == [other]
