"""vgf-kernels: a fast flow backend for Value Gradient Flow (arXiv 2604.14265).

The functions live in the frontends: `vgf_kernels.torch`, `.jax`, `.numpy`; the definition in
`vgf_kernels.reference`. Importing this package imports none of torch, JAX or Triton.
"""

from .config import FlowConfig
from .engines import Backend, backends
from .mlp import MLP

__version__ = "0.1.0"
__all__ = ["MLP", "Backend", "FlowConfig", "__version__", "backends"]
