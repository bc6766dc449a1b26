"""One MLP member: forward, and the gradient of its output with respect to its input."""

from __future__ import annotations

import numpy as np

from ..mlp import Layer
from .activations import activate


def forward(layers: list[Layer], x: np.ndarray, activation: str, norm: str, eps: float) -> np.ndarray:
    """The MLP's output. x [R, in] -> [R, out]."""
    return forward_with_tape(layers, x, activation, norm, eps)[0]


def forward_with_tape(layers, x, activation, norm, eps):
    """The output [R, out] and, per hidden layer, what the backward pass needs."""
    tape = []
    for layer in layers[:-1]:
        z = x @ layer.W + layer.b
        if norm == "pre":
            normed, stats = layer_norm(z, layer, eps)
            x, slope = activate(activation, normed)
        elif norm == "post":
            y, slope = activate(activation, z)
            x, stats = layer_norm(y, layer, eps)
        else:
            x, slope = activate(activation, z)
            stats = None
        tape.append((slope, stats))
    return x @ layers[-1].W + layers[-1].b, tape


def input_gradient(layers: list[Layer], tape, dout: np.ndarray, norm: str) -> np.ndarray:
    """Pull dout [R, out] back to the input: [R, in]."""
    dx = dout @ layers[-1].W.T
    for layer, (slope, stats) in zip(reversed(layers[:-1]), reversed(tape)):
        if norm == "pre":
            dz = layer_norm_backward(dx * slope, layer, stats)
        elif norm == "post":
            dz = layer_norm_backward(dx, layer, stats) * slope
        else:
            dz = dx * slope
        dx = dz @ layer.W.T
    return dx


def layer_norm(z: np.ndarray, layer: Layer, eps: float):
    """Layer norm over the last axis, and (normalised z, 1/std) for the backward pass."""
    centred = z - z.mean(axis=-1, keepdims=True)
    rstd = 1 / np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + z.dtype.type(eps))
    normalised = centred * rstd
    return normalised * layer.scale + layer.bias, (normalised, rstd)


def layer_norm_backward(dy: np.ndarray, layer: Layer, stats) -> np.ndarray:
    """Gradient with respect to the layer norm's input."""
    normalised, rstd = stats
    g = dy * layer.scale
    along = (g * normalised).mean(axis=-1, keepdims=True)
    return rstd * (g - g.mean(axis=-1, keepdims=True) - normalised * along)
