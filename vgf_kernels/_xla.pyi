"""XLA FFI handlers of the CPU engine, for vgf_kernels.jax. Not built where jaxlib's headers were not found."""

from collections.abc import Sequence
from typing import Any

def api_version() -> tuple[int, int]:
    """The XLA FFI API of the headers: a jaxlib of this one or a newer one takes the handlers."""

def handlers() -> dict[str, Any]:
    """Capsules by name; operands and attributes are described in python/bindings/xla/handlers.inl."""

def packed_bytes(
    widths: Sequence[int], ensemble: int, gradient: bool, precision: str, observations: int, critic: bool
) -> int:
    """The size of what handler "pack" returns."""
