"""Activations and their derivatives at whatever float32 can be."""

from __future__ import annotations

import numpy as np
import pytest

import vgf_kernels.numpy as vgf
from vgf_kernels import MLP
from vgf_kernels.mlp import ACTIVATIONS

MAGNITUDES = [0.0, 1e-30, 1e-3, 0.3, 1.0, 5.0, 20.0, 50.0, 87.0, 90.0, 99.0, 101.0, 1e3, 1e6, 1e12, 1e13, 1e15, 1e20, 3e38]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_from_the_least_number_to_the_largest(activation):
    """One unit: q is act(z) and dq its slope. Where float64 says 0, at most what is left of it in float32."""
    z = np.array([sign * magnitude for magnitude in MAGNITUDES for sign in (-1, 1)], np.float32)

    def evaluated(dtype, backend):
        layers = [{"W": np.ones((inputs, 1), dtype), "b": np.zeros(1, dtype)} for inputs in (2, 1)]
        critic = MLP.from_layers(layers, activation=activation)
        obs, x = z.astype(dtype)[:, None], np.zeros((len(z), 1, 1), dtype)
        return vgf.value_and_grad(critic, obs, x, backend=backend)

    with np.errstate(all="ignore"):
        exact = evaluated(np.float64, "reference")
    for got, wanted in zip(evaluated(np.float32, "cpu"), exact):
        np.testing.assert_allclose(got.ravel(), wanted.ravel(), rtol=2e-6, atol=3e-7)
        far = np.abs(z) > 150
        np.testing.assert_allclose(got.ravel()[far], wanted.ravel()[far], rtol=1e-6, atol=1e-30)
