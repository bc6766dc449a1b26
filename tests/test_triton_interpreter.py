"""The Triton engine without a GPU: test_triton.py under Triton's interpreter, in processes of their own.

The interpreter must be chosen before a kernel is defined, and here kernels are compiled too.
"""

from __future__ import annotations

import re

import processes
import pytest

pytest.importorskip("triton")


@pytest.mark.parametrize("part", ["TestGolden", "not TestGolden"])
def test_under_the_interpreter(part):
    done = processes.python(
        "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", part, "test_triton.py",
        TRITON_INTERPRET="1", PYTHONWARNINGS="ignore",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr
    assert re.search(r"\d+ passed", done.stdout) and "skipped" not in done.stdout
