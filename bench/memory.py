"""How much a call raises the peak of this process's resident memory (Linux with glibc)."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_growth(call: Callable[[], object]) -> int:
    """Bytes by which `call`, its result included, raised the peak above what was resident before it."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # memory freed but kept resident would hide what the call needs
    CLEAR_REFS.write_text("5")  # the peak starts again from what is resident now
    before = _status("VmRSS")
    result = call()
    peak = _status("VmHWM")
    del result
    return peak - before


def _status(field: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field + ":"))
    return int(line.split()[1]) * 1024
