"""One action at a time, as a robot asks for them: the distribution over many calls."""

from __future__ import annotations

import pytest
from cases import CASES
from contestants import contestants_of
from peers import Absent
from test_contestants import CLOCK

CALLS = 10_000
PACED, PAUSE = 500, 0.02  # a control loop's: threads have gone to sleep, caches hold other things
CASE = next(case for case in CASES if case.function == "act")


@pytest.mark.benchmark(timer=CLOCK.now)
def test_latency(benchmark, run) -> None:
    try:
        seconds = run.latencies_of(CASE, contestants_of(run.device, run.precision)[0], CALLS)
    except Absent as reason:
        pytest.skip(str(reason))
    benchmark.group = f"{CASE.name}, every call"
    CLOCK.load(seconds)
    benchmark.pedantic(CLOCK.advance, rounds=CALLS)


@pytest.mark.benchmark(timer=CLOCK.now)
def test_latency_with_pauses(benchmark, run, contestant) -> None:
    try:
        seconds = run.latencies_of(CASE, contestant, PACED, PAUSE)
    except Absent as reason:
        pytest.skip(str(reason))
    benchmark.group = f"{CASE.name}, every call, {1e3 * PAUSE:.0f} ms between calls"
    CLOCK.load(seconds)
    benchmark.pedantic(CLOCK.advance, rounds=PACED)
