"""Settings as the attributes of an XLA custom call: numbers of a definite type, structures as dictionaries."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..config import FlowConfig


class Clip(NamedTuple):
    """(low, high), or None with on=False: Clip in csrc/include/vgf/types.hpp."""

    on: bool
    low: np.float32
    high: np.float32

    @classmethod
    def of(cls, clip: tuple[float, float] | None) -> Clip:
        with np.errstate(over="ignore"):  # beyond float32 is no bound
            return cls(clip is not None, *map(np.float32, clip or (0, 0)))


class PackedNetwork(NamedTuple):
    """A network as its handler sees it: Network in python/bindings/xla/attributes.hpp."""

    widths: tuple[int, ...]
    ensemble: int
    activation: str
    norm: str
    norm_eps: float
    gradient: bool
    precision: str
    observations: int
    critic: bool
    in_place: bool


class Config(NamedTuple):
    """A FlowConfig without num_steps, which is an operand: Config in python/bindings/xla/attributes.hpp."""

    learning_rate: float
    alpha: float
    aggregate: str
    kernel: bool
    median: bool
    sigma: float
    bandwidth_grad: bool
    optimizer: str
    clip: Clip

    @classmethod
    def of(cls, config: FlowConfig) -> Config:
        median = isinstance(config.bandwidth, str)
        return cls(
            config.learning_rate, config.alpha, config.aggregate, config.kernel is not None,
            median, 0.0 if median else config.bandwidth, config.bandwidth_grad, config.optimizer,
            Clip.of(config.clip),
        )  # fmt: skip


def encode(value: Any) -> Any:
    """One attribute, as jax.ffi takes it."""
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return {name: encode(field) for name, field in value._asdict().items()}
    if isinstance(value, tuple):
        return np.array(value, np.int64)
    if isinstance(value, bool):
        return np.bool_(value)
    if isinstance(value, int):
        return np.int64(value)
    if isinstance(value, float):
        return np.float64(value)
    return value
