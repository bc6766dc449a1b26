"""Activations and their derivatives at whatever float32 can be."""

from __future__ import annotations

import numpy as np
import pytest

import vgf_kernels.numpy
from vgf_kernels import MLP, reference
from vgf_kernels.mlp import ACTIVATIONS

# All bfloat16, so that no engine rounds them.
MAGNITUDES = [0, 2**-100, 2**-10, 0.3125, 1, 5, 20, 50, 87, 90, 99, 101, 2**10, 2**20, 2**40, 2**43, 2**50, 2**66, 1.5 * 2**127]
Z = np.array([sign * magnitude for magnitude in MAGNITUDES for sign in (-1, 1)])


def evaluated(functions, activation, dtype, **keywords):
    """act(z) and its slope: q and dq of one unit."""
    layers = [{"W": np.ones((inputs, 1), dtype), "b": np.zeros(1, dtype)} for inputs in (2, 1)]
    critic = MLP.from_layers(layers, activation=activation)
    q, dq = functions.value_and_grad(critic, Z.astype(dtype)[:, None], np.zeros((len(Z), 1, 1), dtype), **keywords)
    return q.ravel(), dq.ravel()


def check(got, activation, accuracy):
    with np.errstate(all="ignore"):
        exact = evaluated(reference, activation, np.float64)
    for mine, wanted in zip(got, exact):
        np.testing.assert_allclose(mine, wanted, rtol=2e-6 + accuracy, atol=3e-7 + accuracy)
        far = np.abs(Z) > 150  # where float64 says 0, at most what is left of it in float32
        np.testing.assert_allclose(mine[far], wanted[far], rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_on_the_cpu(activation):
    check(evaluated(vgf_kernels.numpy, activation, np.float32, backend="cpu"), activation, 0)


@pytest.mark.parametrize("hopper", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_on_cuda(emulated, emulator, activation, precision, hopper):
    emulator.set_machine(4, 227 * 1024, hopper)
    got = evaluated(emulated, activation, np.float32, precision=precision)
    check(got, activation, {"fp32": 0, "tf32": 2**-11, "bf16": 2**-8}[precision])
