"""The functions of a frontend on one backend, called with NumPy arrays whatever the frontend."""

from __future__ import annotations

import importlib

import numpy as np

FRONTENDS = ("numpy", "torch")
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
            args = [self._in(a) for a in args]
            kwargs = {key: self._in(a) for key, a in kwargs.items()}
            return self._out(function(*args, **kwargs, backend=self.backend))

        return call

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
        import torch

        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def _out(self, result):
        if isinstance(result, tuple):
            return tuple(map(self._out, result))
        return result if isinstance(result, np.ndarray) else result.detach().cpu().numpy()
