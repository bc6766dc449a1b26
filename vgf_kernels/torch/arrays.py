"""How the engines make, address and describe torch tensors."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from .. import checks

Array = torch.Tensor
T = TypeVar("T")


def check(**named: Any) -> None:
    """Raise TypeError or ValueError unless these are dense tensors of one dtype on one device."""
    checks.check_arrays(torch.Tensor, "use torch.as_tensor(..., dtype=torch.float32)", **named)
    first_name, first = next(iter(named.items()))
    for name, tensor in named.items():
        if tensor.device != first.device:
            raise ValueError(
                f"{name}: expected the device of {first_name}, {first.device}, got {tensor.device}; move one"
            )
        if tensor.layout is not torch.strided:
            raise TypeError(f"{name}: expected a dense tensor, got {tensor.layout}; pass {name}.to_dense()")
        if tensor.is_nested:
            raise TypeError(f"{name}: expected a dense tensor, got a nested one; pass {name}.to_padded_tensor(...) or its parts")


def shape(array: torch.Tensor | None) -> torch.Size | None:
    """Of an array that may be left out."""
    return None if array is None else array.shape


def threads() -> int:
    return torch.get_num_threads()


def empty(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.empty(shape, dtype=torch.float32, device="cpu")  # whatever torch.set_default_device says


def contiguous(array: torch.Tensor) -> torch.Tensor:
    array = array.resolve_neg()  # of a view that is negative, memory does not say so
    return array if array.is_contiguous() else array.detach().contiguous()


def outlasting(make: Callable[[], T], device: torch.device) -> T:
    """make(), whose tensors are kept after the call; their stream is the device's default stream, which has done its work.

    torch.compile(mode="reduce-overhead") runs a call once with all that its thread allocates in the memory of a CUDA graph,
    where nothing may stay. So on a GPU it is another thread that allocates.
    """
    if device.type == "cpu":
        return make()

    def made() -> T:
        result = make()
        torch.cuda.current_stream(device).synchronize()
        return result

    with ThreadPoolExecutor(1) as another:
        return another.submit(made).result()


NO_TRANSFORMS = (
    "torch.func's vmap, grad and jvp cannot pass through an engine: the states B are a batch already, and "
    "torch.autograd.grad differentiates value"
)


def address(array: torch.Tensor) -> int:
    """Raises RuntimeError for a tensor of a transform, TypeError for others that have no memory of their own."""
    try:
        found = array.data_ptr()
    except RuntimeError as error:
        raise RuntimeError(f"expected tensors in memory, got one without ({error}); {NO_TRANSFORMS}") from None
    wraps = type(array) not in (torch.Tensor, torch.nn.Parameter) and is_traceable_wrapper_subclass(array)
    if wraps or (found == 0 and array.numel() > 0):
        raise TypeError(
            f"expected tensors in memory, got a {type(array).__name__} without memory of its own; pass what it stands "
            "for, of a DTensor full_tensor()"
        )
    return found


def device(array: torch.Tensor) -> str:
    return str(array.device)


def dtype(array: torch.Tensor) -> str:
    return str(array.dtype).removeprefix("torch.")


def to_numpy(array: torch.Tensor) -> np.ndarray:
    address(array)  # or an error that says what it is
    return array.detach().resolve_neg().numpy()


def from_numpy(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))
