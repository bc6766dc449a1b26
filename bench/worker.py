"""One contestant in a process of its own, commanded over its standard input and output.

    python bench/worker.py NAME DEVICE PRECISION

The parent sends one pickled (command, argument) at a time and gets back (status, result): "ok", "absent" with the
reason, or "failed" with the traceback. Between commands the process blocks on its pipe.
"""

from __future__ import annotations

import gc
import importlib
import os
import pickle
import statistics
import sys
import time
import traceback

import numpy as np
from cases import Case, make_data
from memory import peak_growth
from peers import MODULES, Absent

TRAINS = 5


class Worker:
    """The commands. Each takes one argument, None where it needs none."""

    def __init__(self, name: str, device: str, precision: str) -> None:
        self.peer = importlib.import_module(f"peers.{MODULES[name]}").Peer(name, device, precision)
        self.device = device
        self.case: Case | None = None
        self.calls: list = []  # a function without arguments for each batch of states

    def describe(self, _) -> dict:
        """Versions, threads and engine of this contestant."""
        return self.peer.describe()

    def limits(self, _) -> dict:
        """What the machine itself reaches (GEMM, copy)."""
        from limits import measure_limits  # torch, which a worker of another framework must not load

        return measure_limits(self.device)

    def load(self, case: Case) -> np.ndarray:
        """Make the inputs, build, and run every call once. Returns the outputs of the checked states."""
        self.case = case
        self.calls = self.peer.prepare(case, make_data(case), case.slices())
        outputs = np.concatenate([self.peer.fetch(self.peer.wait(call())) for call in self.calls])
        return outputs[case.checked()]

    def memory(self, case: Case) -> dict:
        """Bytes of inputs and outputs of one call, and by how much the call raised the peak of memory.

        A call of one state goes first, so that code and packed weights are not counted.
        """
        data = make_data(case)
        inputs = sum(array.nbytes for array in data.arrays.values())
        one, everything = self.peer.prepare(case, data, [slice(0, 1), case.slices()[0]])
        self.peer.wait(one())
        growth = peak_growth(lambda: self.peer.wait(everything()))
        return {"inputs": inputs, "outputs": data.arrays["particles"].nbytes, "growth": growth}

    def turn(self, count: int) -> list[float]:
        """Seconds of each of `count` calls. An untimed one goes first, unless a call takes seconds: of a large case on a CPU."""
        if not (self.case.large and self.device == "cpu"):
            self.peer.wait(self.calls[0]())
        return self._each(count, 0)

    def paced(self, paces: tuple[int, float]) -> list[float]:
        """Seconds of each of (count, pause) calls, that begin `pause` seconds after the last one's end."""
        return self._each(*paces)

    def _each(self, count: int, pause: float) -> list[float]:
        seconds = []
        for i in range(count):
            call = self.calls[i % len(self.calls)]
            self.peer.evict()
            time.sleep(pause)
            start = time.perf_counter()
            self.peer.wait(call())
            seconds.append(time.perf_counter() - start)
        return seconds

    def train(self, count: int) -> float:
        """Seconds a call of `count` calls on one batch without a pause: its data stays in the cache."""
        return self._train(self.calls[0], count)

    def graph(self, count: int) -> float:
        """The same, of a CUDA graph that replays the call."""
        if not hasattr(self.peer, "capture"):
            raise Absent("has no CUDA graphs of its own")
        return self._train(self.peer.capture(self.calls[0]), count)

    def _train(self, call, count: int) -> float:
        """The median of several trains; of a large case, whose calls take long, of one."""
        self.peer.wait(call())
        trains = []
        for _ in range(1 if self.case.large else TRAINS):
            start = time.perf_counter()
            for _ in range(count):
                output = call()
            self.peer.wait(output)
            trains.append((time.perf_counter() - start) / count)
        return statistics.median(trains)

    def drop(self, _) -> None:
        """Forget the case."""
        self.calls = []
        self.case = None
        gc.collect()


def serve(name: str, device: str, precision: str) -> None:
    requests, replies = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print goes to stderr
    worker = None
    while True:
        try:
            command, argument = pickle.load(requests)
        except EOFError:
            return
        try:
            worker = worker or Worker(name, device, precision)
            reply = ("ok", getattr(worker, command)(argument))
        except (Absent, ModuleNotFoundError) as reason:
            reply = ("absent", str(reason))
        except Exception:  # noqa: BLE001  whatever it is, the parent reports it
            reply = ("failed", traceback.format_exc())
        pickle.dump(reply, replies)
        replies.flush()


if __name__ == "__main__":
    serve(*sys.argv[1:])
