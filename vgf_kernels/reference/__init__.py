"""The definition of every function, in NumPy: any float dtype, readable, slow."""

from ..config import FlowConfig
from ..mlp import MLP
from .functions import (
    act,
    direction,
    flow,
    moment_dtype,
    sample,
    select,
    td_target,
    transport,
    update,
    value,
    value_and_grad,
)

__all__ = [
    "MLP", "FlowConfig", "act", "direction", "flow", "moment_dtype", "sample", "select", "td_target", "transport", "update", "value",
    "value_and_grad",
]  # fmt: skip
