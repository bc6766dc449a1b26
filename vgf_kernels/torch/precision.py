"""What precision=None means for tensors on a GPU."""

from __future__ import annotations

import torch

PRECISION_OF = {
    "highest": "fp32", "high": "tf32", "medium": "bf16",
    "ieee": "fp32", "tf32": "tf32", "none": "fp32",  # none: nothing that torch's products on a GPU know
}  # fmt: skip


def matmul_precision() -> str:
    """The precision of vgf_kernels that torch.set_float32_matmul_precision asks for, or torch.backends.cuda.matmul.fp32_precision."""
    try:
        wanted = torch.get_float32_matmul_precision()
    except RuntimeError:  # the newer setting has been used, which this one's getter does not take
        wanted = torch.backends.cuda.matmul.fp32_precision
    return PRECISION_OF[wanted]
