"""The PyTorch frontend: every function on torch tensors, in eager mode and under torch.compile."""

from ..config import FlowConfig
from ..mlp import MLP
from .functions import (
    act,
    direction,
    draw_noise,
    flow,
    sample,
    select,
    td_target,
    transport,
    value,
    value_and_grad,
)

__all__ = [
    "MLP", "FlowConfig", "act", "direction", "draw_noise", "flow", "sample", "select", "td_target",
    "transport", "value", "value_and_grad",
]  # fmt: skip
