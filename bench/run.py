"""One run of the suite: the processes and what each case gave."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
from alternate import Samples, alternate
from cases import CRITICS, HIDDEN, Case, make_data
from contestants import Contestant, Process
from density import density
from machine import available_memory
from peers import Absent
from verify import Error, check, error_of, expected, plain_error


@dataclass
class Outcome:
    """What one case gave.

    Attributes:
        samples: of the contestants that were timed.
        errors: of those that computed something, against float64.
        absent: why others could not take part.
        failed: what went wrong with a contestant that should have.
        memory: of our own call, for large cases on a CPU; see Worker.memory.
        density: the share of hidden units that are on; see density.py.
    """

    samples: dict[Contestant, Samples] = field(default_factory=dict)
    errors: dict[Contestant, Error] = field(default_factory=dict)
    absent: dict[Contestant, str] = field(default_factory=dict)
    failed: dict[Contestant, str] = field(default_factory=dict)
    memory: dict | None = None
    density: dict[str, float] = field(default_factory=dict)


class Run:
    """Measures cases, each once. The contestants' processes start when needed and live until `close`."""

    def __init__(self, device: str, precision: str, rounds: int, progress: Callable[[str], None]) -> None:
        self.device, self.precision, self.rounds = device, precision, rounds
        self.outcomes: dict[Case, Outcome] = {}
        self.descriptions: dict[Contestant, dict] = {}
        self.latencies: dict[str, list[float]] = {}  # seconds of each call, by case, contestant and pause
        self.limits: dict | None = None  # what the machine itself reaches, measured by `close`
        self._progress = progress
        self._processes: dict[Contestant, Process] = {}
        self._absent: dict[Contestant, str] = {}

    def measure(self, case: Case, contestants: list[Contestant]) -> Outcome:
        """Verify every contestant, then time those that are right in turns."""
        if case not in self.outcomes:
            outcome = self.outcomes[case] = Outcome()
            results = self._load(case, contestants, outcome)
            self._verify(case, results, outcome)
            if results:
                outcome.density = density(case, make_data(case))
            ready = {c: self._processes[c] for c in results if c not in outcome.failed}
            rounds = min(self.rounds, case.max_rounds or self.rounds)
            outcome.samples, failed = alternate(case, ready, rounds, self._progress)
            outcome.failed |= failed
            self._drop(results)
            self._progress("")
        return self.outcomes[case]

    def latencies_of(self, case: Case, contestant: Contestant, calls: int, pause: float = 0) -> list[float]:
        """Seconds of each of `calls` calls of one contestant, with `pause` seconds between them.

        Raises Absent, or RuntimeError where it is wrong.
        """
        name = f"{case.name} of {contestant}" + (f", {1e3 * pause:.0f} ms between calls" if pause else "")
        self._progress(f"{calls:,} calls: {name}")
        outcome = Outcome()
        eager = Contestant("torch", self.precision)  # the bar in low precision
        results = self._load(case, list(dict.fromkeys([contestant, eager])), outcome)
        self._verify(case, results, outcome)
        if contestant in outcome.absent:
            raise Absent(outcome.absent[contestant])
        if contestant in outcome.failed:
            raise RuntimeError(outcome.failed[contestant])
        process = self._processes[contestant]
        self.latencies[name] = process.ask("paced", (calls, pause)) if pause else process.ask("turn", calls)
        self._drop(results)
        self._progress("")
        return self.latencies[name]

    def close(self) -> None:
        """Measure what the machine itself reaches, then end the processes."""
        try:
            for contestant, process in self._processes.items():
                if contestant.name == "torch" and not process.ended():
                    self._progress("GEMM rate and copy bandwidth")
                    self.limits = process.ask("limits")
        finally:
            for process in self._processes.values():
                process.close()
            self._progress("")

    def _drop(self, contestants: Iterable[Contestant]) -> None:
        """Let them forget the case."""
        for contestant in contestants:
            if not self._processes[contestant].ended():
                self._processes[contestant].ask("drop")

    def _load(
        self, case: Case, contestants: list[Contestant], outcome: Outcome
    ) -> dict[Contestant, np.ndarray]:
        """The results of the contestants that can run the case."""
        results = {}
        for contestant in contestants:
            self._progress(f"{case.name}: {contestant} builds and runs once")
            try:
                self._check_memory(case, contestant)
                process = self._start(contestant)
                if case.large and contestant.name == "vgf" and self.device == "cpu":
                    outcome.memory = self._memory(case, contestant)
                results[contestant] = process.ask("load", case)
            except Absent as reason:
                outcome.absent[contestant] = str(reason)
            except RuntimeError as error:
                outcome.failed[contestant] = str(error)
        return results

    def _verify(self, case: Case, results: dict[Contestant, np.ndarray], outcome: Outcome) -> None:
        if not results:
            return
        self._progress(f"{case.name}: verification against float64")
        truth, plain = expected(case)
        for contestant, result in results.items():
            try:
                outcome.errors[contestant] = error_of(case, result, truth, contestant.precision)
            except AssertionError as error:
                outcome.failed[contestant] = str(error)
        eager = next((error for c, error in outcome.errors.items() if c.name == "torch"), plain)
        for contestant, error in outcome.errors.items():
            try:
                check(case, error, plain_error(plain, eager, contestant.precision), contestant.precision)
            except AssertionError as wrong:
                outcome.failed[contestant] = str(wrong)

    def _start(self, contestant: Contestant) -> Process:
        """Its process. Raises Absent."""
        if contestant in self._absent:
            raise Absent(self._absent[contestant])
        if contestant in self._processes and self._processes[contestant].ended():  # in an earlier case
            self._processes.pop(contestant).close()
        if contestant not in self._processes:
            process = Process(contestant, self.device)
            try:
                self.descriptions[contestant] = process.ask("describe")
            except Absent as reason:
                self._absent[contestant] = str(reason)
                process.close()
                raise
            self._processes[contestant] = process
        return self._processes[contestant]

    def _memory(self, case: Case, contestant: Contestant) -> dict:
        """In a process of its own, where no earlier case has left memory behind."""
        process = Process(contestant, self.device)
        try:
            return process.ask("memory", case)
        finally:
            process.close()

    def _check_memory(self, case: Case, contestant: Contestant) -> None:
        """Raise Absent where a peer's activations would not fit: three arrays a hidden layer, for every particle."""
        needed = 3 * case.rows * sum(HIDDEN) * CRITICS * 4
        if not contestant.name.startswith("vgf") and self.device == "cpu" and needed > available_memory():
            free = available_memory() / 1e9
            raise Absent(f"its activations need about {needed / 1e9:.0f} GB, {free:.0f} GB are free")
