"""Activations and their derivatives, in any float dtype."""

from __future__ import annotations

import math

import numpy as np

_ERF = np.vectorize(math.erf, otypes=[np.float64])


def erf(z: np.ndarray) -> np.ndarray:
    """The error function, elementwise, computed in float64 and returned in z's dtype."""
    return _ERF(z).astype(z.dtype)


def sigmoid(z: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-z)), without overflow."""
    e = np.exp(-np.abs(z))
    return np.where(z >= 0, 1 / (1 + e), e / (1 + e))


def activate(name: str, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """act(z) and act'(z), both of z's shape. The derivative of relu at 0 is 0."""
    if name == "relu":
        return np.maximum(z, 0), (z > 0).astype(z.dtype)
    if name == "tanh":
        y = np.tanh(z)
        return y, 1 - y * y
    if name == "elu":
        return np.where(z > 0, z, np.expm1(np.minimum(z, 0))), np.where(z > 0, 1, np.exp(np.minimum(z, 0)))
    if name == "silu":
        s = sigmoid(z)
        return z * s, s * (1 + z * (1 - s))
    if name == "mish":
        t, s = np.tanh(np.logaddexp(0, z)), sigmoid(z)
        return z * t, t + z * (1 - t * t) * s
    if name == "gelu":
        c = math.sqrt(2 / math.pi)
        t = np.tanh(c * (z + 0.044715 * z**3))
        return 0.5 * z * (1 + t), 0.5 * (1 + t) + 0.5 * z * (1 - t * t) * c * (1 + 3 * 0.044715 * z * z)
    if name == "gelu_erf":
        cdf = 0.5 * (1 + erf(z / math.sqrt(2)))
        return z * cdf, cdf + z * np.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
    raise ValueError(f"activation: unknown name {name!r}")
