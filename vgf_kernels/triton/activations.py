"""Activations and their derivatives on float32 tiles. NaN stays NaN, unlike with tl.maximum."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def activate(z, ACTIVATION: tl.constexpr):
    """act(z), elementwise."""
    if ACTIVATION == "relu":
        y = tl.where(z < 0, 0.0, z)
    elif ACTIVATION == "tanh":
        y = tanh(z)
    elif ACTIVATION == "elu":
        y = tl.where(z > 0, z, expm1_of_negative(z))
    elif ACTIVATION == "silu":
        y = z * sigmoid(z)
    elif ACTIVATION == "mish":
        y = z * mish_gate(z)
    elif ACTIVATION == "gelu":
        y = 0.5 * z * (1 + tanh(0.7978845608028654 * (z + 0.044715 * z * z * z)))
    else:
        tl.static_assert(ACTIVATION == "gelu_erf", "unknown activation")
        y = 0.5 * z * (1 + tl.math.erf(z * 0.7071067811865476))
    return y


@triton.jit
def slope(z, ACTIVATION: tl.constexpr):
    """act'(z), elementwise. The derivative of relu at 0 is 0."""
    if ACTIVATION == "relu":
        d = tl.where(z > 0, 1.0, 0.0)
    elif ACTIVATION == "tanh":
        t = tanh(z)
        d = 1 - t * t
    elif ACTIVATION == "elu":
        d = tl.where(z > 0, 1.0, tl.exp(tl.where(z > 0, 0.0, z)))
    elif ACTIVATION == "silu":
        s = sigmoid(z)
        d = s * (1 + z * (1 - s))
    elif ACTIVATION == "mish":
        t = mish_gate(z)
        d = t + z * (1 - t * t) * sigmoid(z)
    elif ACTIVATION == "gelu":
        z = tl.where(tl.abs(z) > 100, tl.where(z > 0, 100.0, -100.0), z)  # no float32 tells them apart; squares stay finite
        s = sigmoid(1.5957691216057308 * z * (1 + 0.044715 * z * z))  # (1 + tanh(half of that)) / 2, where that cancels
        d = s + z * s * (1 - s) * (1.5957691216057308 * (1 + 0.134145 * z * z))
    else:
        tl.static_assert(ACTIVATION == "gelu_erf", "unknown activation")
        density = 0.3989422804014327 * tl.exp(-0.5 * z * z)
        d = 0.5 * (1 + tl.math.erf(z * 0.7071067811865476)) + z * density
    return d


@triton.jit
def sigmoid(z):
    """1 / (1 + exp(-z)), without overflow."""
    e = tl.exp(-tl.abs(z))
    return tl.where(z < 0, e, 1.0) / (1 + e)


@triton.jit
def tanh(z):
    """By exp(-2|z|); near zero, where that cancels, by its continued fraction."""
    a = tl.abs(z)
    e = tl.exp(-2 * a)
    far = (1 - e) / (1 + e)
    s = z * z
    near = a / (1 + s / (3 + s / (5 + s / (7 + s / 9))))
    t = tl.where(a < 0.5, near, far)
    return tl.where(z < 0, -t, t)


@triton.jit
def expm1_of_negative(z):
    """exp(z) - 1 for z <= 0; anything finite above. Near zero by its series, where the difference cancels."""
    z = tl.where(z > 0, 0.0, z)
    series = 1 + z / 7 * (1 + z / 8)
    series = 1 + z / 4 * (1 + z / 5 * (1 + z / 6 * series))
    series = z * (1 + z / 2 * (1 + z / 3 * series))
    return tl.where(z > -0.5, series, tl.exp(z) - 1)


@triton.jit
def mish_gate(z):
    """tanh(log(1 + exp(z))) = w (w + 2) / (w (w + 2) + 2) with w = exp(z), kept from overflow."""
    w = tl.exp(tl.where(z > 20, 20.0, z))
    n = w * (w + 2)
    return n / (n + 2)
