"""The Triton engine: whole flows in one launch on any GPU that Triton serves, compiled at the first call.

What is imported here needs neither torch nor Triton; the kernels load with the first `Engine`.
"""

from __future__ import annotations

import importlib.util
from typing import Any

DEVICE = "cuda"
DTYPES = ("float32",)
PRECISIONS = ("fp32", "tf32", "bf16")
OLDEST = (3, 4)


def missing() -> str | None:
    """Why the engine cannot run here."""
    for package in ("torch", "triton"):
        if importlib.util.find_spec(package) is None:
            return f"package {package} is not installed; pip install 'vgf-kernels[triton]'"
    import torch

    if not torch.cuda.is_available():
        return "torch finds no GPU"
    if not torch.version.hip and torch.cuda.get_device_capability() < (8, 0):
        return f"{torch.cuda.get_device_name()} is older than compute capability 8.0"
    return _too_old()


def _too_old() -> str | None:
    import triton

    if tuple(map(int, triton.__version__.split(".")[:2])) >= OLDEST:
        return None
    oldest = ".".join(map(str, OLDEST))
    return f"Triton {triton.__version__} is installed, {oldest} or newer is needed; pip install 'triton>={oldest}'"


def detail() -> str:
    """The GPUs and Triton's version."""
    import torch
    import triton

    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return f"{', '.join(dict.fromkeys(names))}; Triton {triton.__version__}"


def Engine(arrays: Any, precision: str | None) -> Any:
    """The public functions on checked float32 tensors of one GPU.

    Args:
        arrays: not needed: only torch tensors live on a GPU here.
        precision: "fp32", "tf32" or "bf16"; None follows torch.set_float32_matmul_precision.
    """
    from ..torch.precision import matmul_precision
    from .engine import TritonEngine

    return TritonEngine(precision or matmul_precision())
