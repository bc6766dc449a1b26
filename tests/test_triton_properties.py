"""The Triton engine held to what the flow does whatever the network, and to activations at whatever float32 can be."""

from __future__ import annotations

import numpy as np
import pytest
from test_activations import check, evaluated
from test_properties import *
from test_triton import engine, pytestmark  # noqa: F401

from vgf_kernels.mlp import ACTIVATIONS


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(engine, activation, precision):  # noqa: F811
    got = evaluated(engine, activation, np.float32, precision=precision)
    check(got, activation, {"fp32": 0, "tf32": 2**-11, "bf16": 2**-8}[precision])
