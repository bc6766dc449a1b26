"""The Triton engine against the golden files: the tests of the CPU engine, on the engine of test_triton.py."""

from __future__ import annotations

import pytest
from test_cpu_golden import (  # noqa: F401  collected here
    golden,
    test_direction,
    test_flow,
    test_sample,
    test_value,
    test_value_and_grad,
)
from test_triton import engine, pytestmark  # noqa: F401


@pytest.fixture
def cpu(engine):  # noqa: F811
    """What those tests call the engine."""
    return engine
