"""The CUDA engine, emulated, against the golden files: the checks of the CPU engine, on the kernels that a GPU runs."""

from __future__ import annotations

import pytest
from test_cpu_golden import (  # noqa: F401
    golden,
    test_direction,
    test_flow,
    test_sample,
    test_value,
    test_value_and_grad,
)


@pytest.fixture
def cpu(emulated):
    return emulated
