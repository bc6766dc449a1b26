"""The functions of a frontend on one backend, called with NumPy arrays whatever the frontend."""

from __future__ import annotations

import importlib
from contextlib import nullcontext

import numpy as np

FRONTENDS = ("numpy", "torch", "jax")
BACKENDS = ("reference", "cpu")


class Engine:
    """`Engine("torch", "cpu").flow(critic, obs, ...)` calls vgf_kernels.torch.flow(..., backend="cpu").

    Arrays go in as the frontend's own and come back as NumPy arrays.
    """

    def __init__(self, frontend: str, backend: str, device: str = "cpu") -> None:
        self.frontend, self.backend, self.device = frontend, backend, device
        self.module = importlib.import_module(f"vgf_kernels.{frontend}")

    def __getattr__(self, name: str):
        function = getattr(self.module, name)

        def call(*args, **kwargs):
            converted = [self._in(a) for a in args]
            kwargs = {key: self._in(a) for key, a in kwargs.items()}
            with self._arrays_in_callbacks() if any(map(callable, args)) else nullcontext():
                return self._out(function(*converted, **kwargs, backend=self.backend))

        return call

    def _arrays_in_callbacks(self):
        """Score functions of the tests compute with NumPy, so they must not be traced."""
        if self.frontend != "jax":
            return nullcontext()
        import jax

        return jax.disable_jit()

    def _in(self, argument):
        if isinstance(argument, np.ndarray):
            return self.array(argument)
        if callable(argument):  # a score function
            return lambda x: self.array(argument(self._out(x)))
        return argument

    def array(self, array: np.ndarray):
        """The frontend's array with the same contents and dtype."""
        if self.frontend == "numpy":
            return array
        if self.frontend == "jax":
            import jax.numpy as jnp

            return jnp.asarray(array) if array.dtype == np.float32 else array  # else JAX would cast it
        import torch

        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def _out(self, result):
        if isinstance(result, tuple):
            return tuple(map(self._out, result))
        return result.detach().cpu().numpy() if self.frontend == "torch" else np.asarray(result)
