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
    checks.check_arrays(object, "", **named)


def device(name: str, array: Any) -> str:
    """ "cpu" for an array on the CPU, or one that is traced: where that runs shows when it is compiled.

    Raises:
        ValueError: the array lies elsewhere.
    """
    if isinstance(array, (jax.core.Tracer, np.ndarray)):
        return "cpu"
    (platform, *_) = {device.platform for device in array.devices()}
    if platform != "cpu":
        raise ValueError(
            f"{name}: expected an array on the CPU, got one on {platform}; the CUDA handlers are not part of "
            'this version: move it with jax.device_put(x, jax.devices("cpu")[0])'
        )
    return platform


def dtype(array: Any) -> str:
    dtype = np.dtype(array.dtype)
    return dtype.name if dtype.isnative else f"byte-swapped {dtype.name}"
