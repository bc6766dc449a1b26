"""Rounds in which the contestants take turns: A B C, A B C, ... and what follows from them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from cases import Case
from contestants import TICKS, Contestant, Process, machine_cpu_seconds

PAUSE = 0.05  # seconds between turns, in which a thread pool stops spinning
TICK = 1 / TICKS  # by which the system counts the time of processes, in whole ones


@dataclass
class Samples:
    """What was measured of one contestant.

    Attributes:
        rounds: seconds per call, the median of each turn.
        calls: seconds of every call, by turn.
        disturbance: cores that anything else kept busy during its turns: idle contestants, other programs. What the
            clock's ticks may make of nothing does not count.
    """

    rounds: list[float] = field(default_factory=list)
    calls: list[list[float]] = field(default_factory=list)
    disturbance: float = 0.0


def alternate(
    case: Case, processes: dict[Contestant, Process], rounds: int, progress: Callable[[str], None]
) -> tuple[dict[Contestant, Samples], dict[Contestant, str]]:
    """Let contestants that have loaded the case take turns. Returns the samples, and why whoever failed has none."""
    failed: dict[Contestant, str] = {}
    samples = {contestant: Samples() for contestant in processes}
    wall, disturbed = dict.fromkeys(processes, 0.0), dict.fromkeys(processes, 0.0)
    for index in range(rounds):
        for contestant, process in processes.items():
            if contestant in failed:
                continue
            progress(f"{case.name}: round {index + 1} of {rounds}, {contestant}")
            time.sleep(PAUSE)
            start, others = time.perf_counter(), machine_cpu_seconds() - process.cpu_seconds()
            try:
                seconds = process.ask("turn", case.calls)
            except RuntimeError as error:
                failed[contestant] = str(error)
                continue
            others = machine_cpu_seconds() - process.cpu_seconds() - others
            disturbed[contestant] += max(0, others - 2 * TICK)
            wall[contestant] += time.perf_counter() - start
            samples[contestant].calls.append(seconds)
            samples[contestant].rounds.append(statistics.median(seconds))
    for contestant in failed:
        del samples[contestant]
    for contestant, measured in samples.items():
        measured.disturbance = disturbed[contestant] / wall[contestant]
    return samples, failed


def ratios(ours: list[float], theirs: list[float]) -> dict[str, float]:
    """How many times as long the others take, round by round: median and quartiles. Above 1 ours is faster."""
    each = [b / a for a, b in zip(ours, theirs)]
    low, middle, high = statistics.quantiles(each, n=4, method="inclusive") if len(each) > 1 else each * 3
    return {"median": middle, "low": low, "high": high}
