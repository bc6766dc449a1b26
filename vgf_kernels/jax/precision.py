"""What precision=None means, by engine."""

from __future__ import annotations

import jax

# XLA computes its default, "high" and "tensorfloat32" products of float32 in TF32 on an NVIDIA GPU.
PRECISION_OF = {
    None: "tf32",
    "default": "tf32",
    "fastest": "tf32",
    "high": "tf32",
    "tensorfloat32": "tf32",
    "TF32_TF32_F32": "tf32",
    "bfloat16": "bf16",
    "BF16_BF16_F32": "bf16",
}


def precisions(wanted: str | None) -> tuple[tuple[str, str], ...]:
    """(engine, precision) pairs: as wanted, else fp32 on the CPU, and jax_default_matmul_precision on a GPU."""
    on_gpu = PRECISION_OF.get(jax.config.jax_default_matmul_precision, "fp32")
    return ("cpu", wanted or "fp32"), ("cuda", wanted or on_gpu)
