"""The Triton engine: whole flows in one launch on any GPU that Triton serves, compiled at the first call.

What is imported here needs neither torch nor Triton; the kernels load with the first `Engine`.
"""

from __future__ import annotations

import importlib.metadata
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
    version = importlib.metadata.version("triton")
    if tuple(map(int, version.split(".")[:2])) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        return (
            f"Triton {version} is installed, and {oldest} or newer is needed; pip install 'triton>={oldest}'"
        )
    import torch

    if not torch.cuda.is_available():
        return "torch finds no GPU"
    return None


def detail() -> str:
    """The GPUs and Triton's version."""
    import torch

    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return f"{', '.join(dict.fromkeys(names))}; Triton {importlib.metadata.version('triton')}"


def Engine(arrays: Any, precision: str | None) -> Any:
    """The public functions on checked float32 tensors of one GPU.

    Args:
        arrays: not needed: only torch tensors live on a GPU here.
        precision: "fp32", "tf32" or "bf16"; None follows torch.set_float32_matmul_precision.
    """
    from ..torch.precision import matmul_precision
    from .engine import TritonEngine

    return TritonEngine(precision or matmul_precision())
