"""The JAX frontend: every function on jax arrays, inside jit, vmap, scan and shard_map too.

Parameters are ordinary pytrees that may be traced: `critic = network(params, activation="relu")`.
"""

import jax

try:
    import jax.ffi
except ImportError:
    raise ImportError(f"vgf_kernels.jax needs JAX 0.5 or newer (jax.ffi), found {jax.__version__}") from None

from ..config import FlowConfig
from ..mlp import MLP
from .functions import (
    act,
    direction,
    draw_noise,
    flow,
    pack,
    register,
    sample,
    select,
    td_target,
    transport,
    value,
    value_and_grad,
)
from .networks import Network, Packed, network

__all__ = [
    "MLP", "FlowConfig", "Network", "Packed", "act", "direction", "draw_noise", "flow", "network", "pack",
    "register", "sample", "select", "td_target", "transport", "value", "value_and_grad",
]  # fmt: skip
