"""One action at a time, as a robot asks for them: the distribution over many calls."""

from __future__ import annotations

import pytest
from cases import CASES
from contestants import contestants_of
from peers import Absent
from test_contestants import CLOCK

CALLS = 10_000
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
