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


@pytest.fixture(params=["general", "hopper_tile"])
def cpu(request, emulated, emulator):
    """On the kernels of every GPU, and on Hopper's tiles."""
    hopper = request.param == "hopper_tile"
    if hopper:
        emulator.set_machine(2, 227 * 1024, True)
    before = emulator.launches_of("hopper_tile_kernel")
    yield emulated
    assert (emulator.launches_of("hopper_tile_kernel") > before) == hopper
