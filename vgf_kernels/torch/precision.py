"""What precision=None means for tensors on a GPU."""

from __future__ import annotations

import torch

PRECISION_OF = {"highest": "fp32", "high": "tf32", "medium": "bf16"}


def matmul_precision() -> str:
    """The precision of vgf_kernels that torch.set_float32_matmul_precision asks for."""
    return PRECISION_OF[torch.get_float32_matmul_precision()]
