"""How the engines make, address and describe NumPy arrays."""

from __future__ import annotations

import numpy as np

from ..threads import threads  # noqa: F401 - the engines ask for it here

Array = np.ndarray


def empty(shape: tuple[int, ...]) -> np.ndarray:
    return np.empty(shape, np.float32)


def contiguous(array: np.ndarray) -> np.ndarray:
    return array if array.flags.c_contiguous and array.flags.aligned else array.copy(order="C")


def address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def device(array: np.ndarray) -> str:
    return "cpu"


def dtype(array: np.ndarray) -> str:
    return array.dtype.name if array.dtype.isnative else f"byte-swapped {array.dtype.name}"


def to_numpy(array: np.ndarray) -> np.ndarray:
    return array


def from_numpy(array: np.ndarray) -> np.ndarray:
    return array
