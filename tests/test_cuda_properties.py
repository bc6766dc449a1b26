"""The CUDA engine, emulated, held to what the flow does whatever the network."""

from __future__ import annotations

import pytest
from test_properties import *  # noqa: F403


@pytest.fixture
def engine(emulated):
    return emulated
