"""The contestants' processes, as the parent sees them."""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from children import reap
from peers import MODULES, ON_GPU_ALONE, Absent

WORKER = Path(__file__).with_name("worker.py")
TICKS = os.sysconf("SC_CLK_TCK")


class Silent(RuntimeError):
    """A worker that did not answer in time, and was killed."""


@dataclass(frozen=True)
class Contestant:
    name: str
    precision: str

    def __str__(self) -> str:
        return self.name if self.precision == "fp32" else f"{self.name} {self.precision}"


def contestants_of(device: str, precision: str) -> list[Contestant]:
    """Ours first. On a CPU, JAX stays in fp32 where the others take bf16: XLA's bf16 is slower there."""
    jax = "fp32" if device == "cpu" else precision
    return [
        Contestant(name, jax if name.startswith("jax") else precision)
        for name in MODULES
        if device != "cpu" or name not in ON_GPU_ALONE
    ]


def machine_cpu_seconds() -> float:
    """CPU time everything on this machine has used (Linux: read from /proc)."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(
        int, Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    )
    return (user + nice + system + irq + softirq + steal) / TICKS


class Process:
    """A worker process. It blocks on its pipe while others are timed."""

    def __init__(self, contestant: Contestant, device: str, **environment: str) -> None:
        self.contestant = contestant
        self._log = tempfile.TemporaryFile(mode="w+")  # noqa: SIM115  closed by close
        self._process = subprocess.Popen(
            [sys.executable, str(WORKER), contestant.name, device, contestant.precision],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=os.environ | environment,
            start_new_session=True,  # so that the compilers it starts end with it
        )

    def ask(self, command: str, argument: Any = None, patience: float | None = None) -> Any:
        """The worker's answer. Raises Absent, or RuntimeError with the worker's traceback or last words.

        A worker that has not answered after `patience` seconds is killed: Silent.
        """
        try:
            pickle.dump((command, argument), self._process.stdin)
            self._process.stdin.flush()
            if not select.select([self._process.stdout], [], [], patience)[0]:
                self._kill()
                raise Silent(f"{self.contestant}, {command}: no answer within {patience:.0f} s")
            status, result = pickle.load(self._process.stdout)
        except (EOFError, OSError):
            code = self._process.wait()
            why = f"{self.contestant} ended with code {code} (-9: out of memory?)"
            raise RuntimeError(f"{why}\n{self._tail()}") from None
        if status == "absent":
            raise Absent(result)
        if status == "failed":
            raise RuntimeError(f"{self.contestant}, {command}:\n{result}{self._tail()}")
        return result

    def ended(self) -> bool:
        return self._process.poll() is not None

    def cpu_seconds(self) -> float:
        """CPU time this process has used (Linux: read from /proc)."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):  # it has ended already
            self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._kill()
            reap(self._process)
        self._process.stdout.close()
        self._log.close()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has ended already
            os.killpg(self._process.pid, signal.SIGKILL)

    def _tail(self) -> str:
        self._log.seek(0)
        return self._log.read()[-2000:]
