"""The median of states so large that an int32 does not count their distances. Needs no GPU: runs interpreted."""

from __future__ import annotations

import os

import pytest
import torch

triton = pytest.importorskip("triton")
import triton.language as tl

from vgf_kernels.triton.large import entries
from vgf_kernels.triton.median import DIGITS, narrow

pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") != "1", reason="test_triton_interpreter.py runs this"
)


@triton.jit
def lower_middle(counts, out, N):
    found, rank, equal = narrow(counts, 256, DIGITS, entries(N))
    tl.store(out, found.to(tl.int64))
    tl.store(out + 1, rank)
    tl.store(out + 2, equal)


def test_seventy_thousand_particles():
    """4.9e9 distances: 3e9 begin with digit 5, 2.4e9 of them go on with 7 and the others are all 5, 8, 0, 127."""
    counts = torch.zeros(4, 256, dtype=torch.int64)
    counts[0, 5], counts[0, 9] = 3_000_000_000, 1_900_000_000
    counts[1, 7], counts[1, 8] = 2_400_000_000, 600_000_000
    counts[2, 0] = counts[3, 127] = 600_000_000
    out = torch.zeros(3, dtype=torch.int64)
    lower_middle[(1,)](counts, out, 70_000)
    assert out.tolist() == [5 << 23 | 8 << 15 | 127, (4_900_000_000 - 1) // 2 - 2_400_000_000, 600_000_000]
