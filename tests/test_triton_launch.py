"""Launching compiled kernels again: which calls may share one, on a stand-in for the kernel and the GPU."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from typing import ClassVar

import pytest
import torch

pytest.importorskip("triton")

from triton.runtime.errors import OutOfResources, PTXASError

from vgf_kernels.torch.arrays import outlasting
from vgf_kernels.triton import launch
from vgf_kernels.triton.launch import Options

GPU = torch.device("cuda", 0)


class Kernel:
    """Notes what is compiled, and what then runs. `fails` is raised by the next launch."""

    def __init__(self) -> None:
        self.compiled, self.ran, self.fails = 0, [], None

    def warmup(self, *arguments, grid, **options):
        self.compiled += 1
        return Compiled(self)


class Compiled:
    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel

    def __getitem__(self, grid):
        def run(*arguments):
            error, self.kernel.fails = self.kernel.fails, None
            if error is not None:
                raise error
            self.kernel.ran.append((grid, arguments))

        return run


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(launch, "_compiled", {})
    monkeypatch.setattr(launch.INTERPRETED, "value", False)


def run(kernel, *arguments, constants=(1,), options=Options(), device=GPU) -> None:  # noqa: B008
    launch.launch(kernel, (3, 1), device, options, arguments, constants)


def test_a_compiled_kernel_is_found_again_whatever_the_numbers_and_sizes():
    kernel = Kernel()
    run(kernel, torch.zeros(4), 1, 0.5)
    run(kernel, torch.zeros(9)[1:], 16, 1.0)
    assert kernel.compiled == 1
    assert [grid for grid, _ in kernel.ran] == [(3, 1, 1)] * 2
    assert [arguments[1:] for _, arguments in kernel.ran] == [(1, 0.5, 1), (16, 1.0, 1)]


@pytest.mark.parametrize("capturing", [False, True])
def test_a_kernel_that_could_not_be_loaded_is_loaded_by_the_next_call(monkeypatch, capturing):
    monkeypatch.setattr(launch, "is_capturing", lambda device: capturing)
    kernel = Kernel()
    kernel.fails = RuntimeError("Triton Error [CUDA]: operation not permitted when stream is capturing")
    why = "call the function once with arrays of these sizes before capturing" if capturing else "operation not permitted"
    with pytest.raises(RuntimeError, match=why):
        run(kernel)
    run(kernel)
    assert len(kernel.ran) == 1


def test_two_threads_first_launches_compile_once():
    kernel, both = Kernel(), threading.Barrier(2)
    compiled = kernel.warmup

    def slow(*arguments, **options):
        time.sleep(0.05)  # the other thread is here by now, if it does not wait
        return compiled(*arguments, **options)

    kernel.warmup = slow

    def first():
        both.wait()
        run(kernel)

    threads = [threading.Thread(target=first) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert kernel.compiled == 1 and len(kernel.ran) == 2


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


class Event:
    """At each record, what had run by then."""

    ran: ClassVar[list] = []

    def __init__(self, enable_timing: bool) -> None:
        pass

    def record(self, stream) -> None:
        self.at = len(self.ran)

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end) -> float:
        return 1e3 * sum(self.ran[self.at : end.at])


@pytest.fixture
def events(monkeypatch):
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(Event, "ran", [])


@pytest.mark.usefixtures("events")
def test_a_configuration_that_cannot_run_takes_for_ever():
    for error in (
        OutOfResources(2, 1, "shared memory"),
        PTXASError("too many registers"),
        torch.cuda.OutOfMemoryError("scratch memory"),
        RuntimeError("PassManager::run failed"),
    ):

        def fail(config, error=error):
            raise error

        assert launch.timer(GPU, fail)(None) == math.inf


@pytest.mark.usefixtures("events")
def test_compilation_is_no_part_of_a_configurations_time():
    known = set()

    def compile_and_run(config) -> None:
        Event.ran.append(1.0 if config in known else 10.0)
        known.add(config)

    measure = launch.timer(GPU, compile_and_run)
    assert [measure(config) for config in "aabb"] == [1.0] * 4
    assert len(Event.ran) == 6


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
