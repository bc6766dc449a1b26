"""How many threads the CPU engine takes, where no framework says it."""

from __future__ import annotations

import functools
import os
from pathlib import Path

MOST_THREADS = 4096
CONTAINER_SHARE = Path("/sys/fs/cgroup/cpu.max")  # microseconds a period, and its length; see cgroups, version 2


def threads() -> int:
    """VGF_NUM_THREADS, else OMP_NUM_THREADS, else the CPUs this process may use."""
    for name in ("VGF_NUM_THREADS", "OMP_NUM_THREADS"):
        setting = os.environ.get(name, "").split(",")[0]  # OMP_NUM_THREADS may list nested levels
        if setting:
            if not setting.isdecimal() or not 1 <= int(setting) <= MOST_THREADS:
                raise ValueError(
                    f"{name}: expected an integer from 1 to {MOST_THREADS}, got {setting!r}; correct or unset it"
                )
            return int(setting)
    return available_cpus()


def available_cpus() -> int:
    """The CPUs this process may use: those it may run on, or fewer where a container has a share of them."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(allowed, _share(CONTAINER_SHARE) or allowed)


@functools.cache
def _share(file: Path) -> int | None:
    """How many CPUs' time a container has, rounded up; None where there is no such limit."""
    try:
        quota, period = file.read_text().split()
        return -(-int(quota) // int(period))
    except (OSError, ValueError):  # not there, or "max"
        return None
