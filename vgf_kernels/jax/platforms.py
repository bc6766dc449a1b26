"""The engines that have XLA handlers, by the platform they serve; the handlers are made known to XLA late and once."""

from __future__ import annotations

import functools
import importlib
from dataclasses import dataclass
from typing import Any

import jax
import jax.ffi


@dataclass(frozen=True)
class Fused:
    """An engine whose functions are XLA custom calls.

    Attributes:
        name: what `backend=` calls it.
        platform: for which JAX compiles where it serves; `registry` is XLA's name of the same.
        prefix: of the handlers' names in XLA.
        module: its compiled module; `remedy` is what to do where it is missing.
        counts_on_device: step counts lie where the host does not see them.
    """

    name: str
    platform: str
    registry: str
    prefix: str
    module: str
    remedy: str
    counts_on_device: bool

    def reads_in_place(self, precision: str, particles: int) -> bool:
        """Whether a call of so many particles is given the weights themselves: packing them takes longer than it gains.

        A number that is not known yet (of a symbolic shape) may be large.
        """
        return self.name == "cpu" and precision == "fp32" and isinstance(particles, int) and particles <= 128

    @functools.cache
    def handlers(self) -> Any:
        """The compiled module, its handlers registered.

        The platform is up by then: a handler that XLA refuses raises here and nowhere else, while one that
        waits for the platform would make its start fail.

        Raises:
            RuntimeError: the module cannot be imported, or this jaxlib does not take its handlers.
        """
        try:
            module = importlib.import_module(self.module)
        except ImportError as error:
            raise RuntimeError(
                f"the compiled module {self.module} cannot be imported ({error}); {self.remedy}, or pass "
                'backend="reference"'
            ) from None
        for name, capsule in module.handlers().items():
            try:
                jax.ffi.register_ffi_target(self.prefix + name, capsule, platform=self.registry)
            except Exception as error:
                api = ".".join(map(str, module.api_version()))
                raise RuntimeError(
                    f"jaxlib {jax.lib.__version__} does not take handlers of XLA FFI API {api}, with which this "
                    f"package was built ({error}); install a jaxlib that does, rebuild the package against its "
                    'headers, or pass backend="reference"'
                ) from error
        return module


ENGINES = {
    "cpu": Fused(
        "cpu", "cpu", "cpu", "vgf_", "vgf_kernels._xla", "reinstall the package", counts_on_device=False
    ),
    "cuda": Fused(
        "cuda", "cuda", "CUDA", "vgf_", "vgf_kernels._xla_cuda", "reinstall the package where nvcc is",
        counts_on_device=True,
    ),
}  # fmt: skip


def engine_for(backend: str | None, platform: str) -> Fused:
    """The engine of a call that is compiled for a platform; `backend` None takes the platform's own.

    Raises:
        ValueError: the engine computes elsewhere, or none is made for the platform.
    """
    engine = ENGINES.get(backend or platform)
    if engine is None:
        raise ValueError(
            f"vgf_kernels.jax computes on {' and '.join(ENGINES)}, but this is compiled for {platform}; move the "
            'arrays with jax.device_put(x, jax.devices("cpu")[0])'
        )
    if engine.platform != platform:
        raise ValueError(
            f"the {engine.name} engine was asked for, or packed the weights, but this is compiled for {platform}; "
            'pass backend="auto" and networks, or arrays on the other device'
        )
    return engine


def default_engine() -> str:
    """The engine of the default platform, for messages about what only shows when a computation is compiled."""
    return default() if default() in ENGINES else "cpu"


def default() -> str:
    """The platform where JAX puts what nobody has placed."""
    device = jax.config.jax_default_device
    name = str(getattr(device, "platform", device)).split(":")[0] if device else jax.default_backend()
    return "cuda" if name == "gpu" else name
