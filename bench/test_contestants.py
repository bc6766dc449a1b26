"""Every case with every contestant. The times were taken in turns, by processes; pytest-benchmark reports them."""

from __future__ import annotations

import pytest
from contestants import contestants_of


class Replay:
    """A clock that shows times measured elsewhere: each `advance` takes as long as the next of them did."""

    def __init__(self) -> None:
        self._now, self._durations = 0.0, iter(())

    def load(self, durations: list[float]) -> None:
        self._durations = iter(durations)

    def now(self) -> float:
        return self._now

    def advance(self) -> None:
        self._now += next(self._durations)


CLOCK = Replay()


@pytest.mark.benchmark(timer=CLOCK.now)
def test_contestant(benchmark, run, case, contestant) -> None:
    outcome = run.measure(case, contestants_of(run.device, run.precision))
    if contestant in outcome.failed:
        pytest.fail(outcome.failed[contestant], pytrace=False)
    if contestant in outcome.absent:
        required = contestant.name == "vgf" and run.device == "cpu"
        (pytest.fail if required else pytest.skip)(f"{contestant}: {outcome.absent[contestant]}")
    seconds = outcome.samples[contestant].rounds
    benchmark.group = case.name
    CLOCK.load(seconds)
    benchmark.pedantic(CLOCK.advance, rounds=len(seconds))
