"""Launching kernels, at the price of a compiled kernel's call after the first."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from triton.runtime.errors import OutOfResources, PTXASError

from .products import INTERPRETED


@dataclass(frozen=True)
class Options:
    """How a kernel is compiled: warps of a program, and stages of the pipeline that loads a product's operands."""

    num_warps: int = 4
    num_stages: int = 2


_compiled: dict[tuple, Any] = {}
_first = threading.Lock()  # of a kernel's launches
_SMALL = 2**31 - 1  # bytes of an array up to which Triton gives AMD's compiler 32-bit offsets


def launch(
    kernel: Any,
    grid: tuple[int, int],
    device: torch.device,
    options: Options,
    arguments: tuple,
    constants: tuple,
) -> None:
    """Run a kernel on the device's current stream.

    Args:
        arguments: tensors and numbers. constants: what the kernel is compiled for; they follow the arguments.

    A kernel is compiled anew for other constants and types of tensors, on AMD's GPUs also where an array passes two
    gigabytes, and for nothing else: the kernels declare that neither numbers nor the alignment of the caller's
    tensors are specialised on, and what the engine allocates is always aligned. So those find the compiled kernel
    again, without Triton's own look-up, which takes several times as long as the launch.

    Under Triton's interpreter (TRITON_INTERPRET=1, for tests) kernels run on CPU tensors.
    """
    if INTERPRETED.value:
        kernel[grid](*arguments, *constants)
        return
    tensors = [a for a in arguments if isinstance(a, torch.Tensor)]
    kinds = [t.dtype for t in tensors]
    if torch.version.hip:
        kinds += [t.untyped_storage().size() <= _SMALL for t in tensors]
    key = (id(kernel), device.index, options, constants, *kinds)
    with torch.cuda.device(device):
        compiled = _compiled.get(key)
        if compiled is not None:
            compiled[(*grid, 1)](*arguments, *constants)
        else:
            _launch_first(key, kernel, grid, device, options, arguments, constants)


def _launch_first(key, kernel, grid, device, options, arguments, constants) -> None:
    """Compile, which launches nothing, then launch, which loads. Triton alone would keep a kernel that could not be loaded, and
    give it to another thread before it is; a compiled one, asked directly, loads again.
    """
    with _first:
        compiled = _compiled.get(key) or kernel.warmup(
            *arguments,
            *constants,
            grid=grid,
            num_warps=options.num_warps,
            num_stages=options.num_stages,
            enable_fp_fusion=True,
        )
        capturing = is_capturing(device)
        try:
            compiled[(*grid, 1)](*arguments, *constants)
        except RuntimeError as error:
            if capturing:
                raise RuntimeError(
                    "a kernel for these sizes is not on the GPU yet, and could not be loaded while a CUDA graph is captured; "
                    "call the function once with arrays of these sizes before capturing it"
                ) from error
            raise
        _compiled[key] = compiled


def is_capturing(device: torch.device) -> bool:
    """Whether the device's current stream is captured into a CUDA graph."""
    if device.type == "cpu":
        return False
    with torch.cuda.device(device):
        return torch.cuda.is_current_stream_capturing()


def timer(device: torch.device, run: Callable[[Any], None]) -> Callable[[Any], float] | None:
    """A function that gives the seconds `run(config)` takes, once it is compiled; None where that may not be measured now.

    Measuring waits for the GPU. A configuration that cannot run, for want of shared memory, registers or memory, or because
    the compiler fails on it, takes for ever.
    """
    if device.type == "cpu" or is_capturing(device):
        return None

    ready = set()

    def measure(config: Any) -> float:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        stream = torch.cuda.current_stream(device)
        try:
            if config not in ready:
                run(config)
                ready.add(config)
            start.record(stream)
            run(config)
        except (OutOfResources, PTXASError, RuntimeError):  # torch is out of memory, a pass of the compiler fails
            return math.inf
        end.record(stream)
        end.synchronize()
        return start.elapsed_time(end) / 1e3

    return measure
