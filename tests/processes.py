"""Running Python in a process of its own, with the package under test and these helpers on its path."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import vgf_kernels

TESTS = Path(__file__).parent
PACKAGE = Path(vgf_kernels.__file__).parents[1]
TIMEOUT = 180  # seconds: only a hang takes this long


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `python arguments...` with `environment` on top of this one's; returns with its output as text."""
    path = os.pathsep.join(filter(None, [str(PACKAGE), str(TESTS), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, **environment, "PYTHONPATH": path},
        cwd=TESTS,
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT,
    )


def run(code: str, **environment: str) -> str:
    """What `python -c code` prints. Fails the test where it fails."""
    done = python("-c", code, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout
