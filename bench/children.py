"""A child process that writes one JSON record a line, read with deadlines: what it has written is never lost."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator

LAST_WAIT = 20  # seconds


def reap(killed: subprocess.Popen) -> None:
    """Wait for a process that was killed, though not for ever: a driver may hold on to it."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        killed.wait(LAST_WAIT)


class Stopped(Exception):
    """The child has not come to its own good end; the message says why, and what it said last.

    Attributes:
        in_time: nothing was wrong with it but that its time was up.
    """

    def __init__(self, why: str, in_time: bool = False) -> None:
        super().__init__(why)
        self.in_time = in_time


def records(command: list[str], deadline: float, silence: float, **environment: str) -> Iterator[dict]:
    """The records of a command as they come.

    Args:
        deadline: when, by time.monotonic(), it is killed.
        silence: after so many seconds without a record, too.
        environment: variables on top of this process's own.

    Raises:
        Stopped: it was killed, or ended with another code than 0.
    """
    with tempfile.TemporaryFile(mode="w+", errors="replace") as log:
        child = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, env=os.environ | environment, start_new_session=True
        )
        why, late = None, False
        try:
            unread = b""
            while True:
                patience = min(silence, deadline - time.monotonic())
                if not select.select([child.stdout], [], [], max(0, patience))[0]:
                    late = time.monotonic() >= deadline
                    why = "its time was up" if late else f"no word from it for {silence:.0f} s"
                    break
                received = os.read(child.stdout.fileno(), 1 << 16)
                if not received:
                    break
                *lines, unread = (unread + received).split(b"\n")
                for line in lines:
                    if line.startswith(b"{"):  # libraries print, too
                        yield json.loads(line)
        finally:
            _end(child, at_once=why is not None)
        if why is None and child.returncode:
            why = f"it ended with code {child.returncode}"
        if why is not None:
            log.seek(0)
            raise Stopped(f"{why}; {log.read()[-1500:].strip()}", late)


def _end(child: subprocess.Popen, at_once: bool) -> None:
    """Wait for its end; kill it and its own children where it is to end at once, or takes longer than a minute."""
    try:
        child.wait(0 if at_once else 60)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        reap(child)
    child.stdout.close()
