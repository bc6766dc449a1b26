"""What the JAX frontend asks of its arrays."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from .. import checks

Array = jax.Array | np.ndarray


def check(**named: Any) -> None:
    """All are arrays, traced or not, of one dtype. NumPy arrays are taken as they are, also float64 ones."""
    for name, array in named.items():
        if not isinstance(array, Array):
            kind = type(array).__name__
            raise TypeError(f"{name}: expected Array, got {kind}; use jnp.asarray(..., jnp.float32)")
        checks.check_plain(name, array)
        if name.endswith("noise") and _is_key(array):
            raise TypeError(
                f"{name}: expected random numbers, got a key; draw them: draw_noise(key, B, N, A) for particles, "
                "jax.random.uniform(key, (B, N)) to select by"
            )
    checks.check_arrays(object, "", **named)


def _is_key(array: Any) -> bool:
    return jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key) or array.dtype == np.uint32


def device(array: Any) -> str | None:
    """Where an array lies, "cpu" or "cuda" if on one of these; None for one that JAX is yet to place."""
    if isinstance(array, (jax.core.Tracer, np.ndarray)):
        return None
    (platform, *_) = {device.platform for device in array.devices()}
    return "cuda" if platform == "gpu" else platform


def dtype(array: Any) -> str:
    dtype = np.dtype(array.dtype)
    return dtype.name if dtype.isnative else f"byte-swapped {dtype.name}"
