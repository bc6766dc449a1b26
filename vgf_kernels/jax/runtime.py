"""The CPU engine's handlers made known to XLA: late, once, and with one clear error where that cannot be."""

from __future__ import annotations

import functools

import jax
import jax.ffi

PREFIX = "vgf_"  # of the handlers' names in XLA


@functools.cache
def handlers():
    """The compiled module vgf_kernels._xla, its handlers registered.

    The CPU backend is started first: a handler that XLA refuses then raises here and nowhere else, while one
    that waits for the backend would make its start fail.

    Raises:
        RuntimeError: the module cannot be imported, or this jaxlib does not take its handlers.
    """
    try:
        from .. import _xla
    except ImportError as error:
        raise RuntimeError(
            f"the compiled module vgf_kernels._xla cannot be imported ({error}); reinstall the package, or pass "
            'backend="reference"'
        ) from None
    jax.devices("cpu")
    for name, capsule in _xla.handlers().items():
        try:
            jax.ffi.register_ffi_target(PREFIX + name, capsule, platform="cpu")
        except Exception as error:
            api = ".".join(map(str, _xla.api_version()))
            raise RuntimeError(
                f"jaxlib {jax.lib.__version__} does not take handlers of XLA FFI API {api}, with which this "
                f"package was built ({error}); install a jaxlib that does, rebuild the package against its "
                'headers, or pass backend="reference"'
            ) from error
    return _xla
