"""The Triton engine without a GPU: its tests under Triton's interpreter, in processes of their own.

The interpreter must be chosen before a kernel is defined, and here kernels are compiled too.
"""

from __future__ import annotations

import re

import processes
import pytest

pytest.importorskip("triton")


# The largest golden cases take the interpreter longest; the smaller ones have these two settings as well.
CHOSEN = "not ((gelu_ln_odd or relu_ln_small or many_particles or ten_critics) and (no_kernel or fixed_bandwidth))"


PARTS = {"test_triton.py": 4, "test_triton_golden.py": 3, "test_triton_median.py": 1, "test_triton_properties.py": 3}


@pytest.mark.parametrize(("file", "part"), [(file, f"{i}/{of}") for file, of in PARTS.items() for i in range(of)])
def test_under_the_interpreter(file, part):
    done = processes.python(
        "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", CHOSEN, "--part", part, file,
        TRITON_INTERPRET="1", PYTHONWARNINGS="ignore",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr
    assert re.search(r"\d+ passed", done.stdout) and "skipped" not in done.stdout
