"""The benchmark suite itself: what it refuses, what it writes, and that one contestant's end is not the others'."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import processes
import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(not (ROOT / "bench").exists(), reason="bench/ is not part of this installation")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rounds", "0"], "--rounds: expected 1 or more, got 0"),
        (["--precision", "tf32"], "--precision: the cpu engine computes fp32 or bf16, got tf32"),
        (["--trained", "critic"], "--trained: expected an .npz file, got critic"),
        (["--trained", "missing.npz"], "--trained: expected an .npz file, got missing.npz"),
    ],
)
def test_options_that_mean_nothing(options, message):
    done = processes.python("-m", "pytest", str(ROOT / "bench"), "-p", "no:cacheprovider", *options)
    assert done.returncode == 4 and message in done.stderr


def test_a_contestant_that_dies_takes_no_other_with_it(bench, monkeypatch):
    """It has failed in that case, the others have all their rounds, and in the next it takes part again."""
    contestants = bench("contestants")
    ours, torch = (contestants.Contestant(name, "fp32") for name in ("vgf", "torch"))
    small = replace(bench("cases").CASES[0], states=4, batch=4)
    ask, turns = contestants.Process.ask, []

    def dying(process, command, *rest):
        if (process.contestant, command) == (torch, "turn"):
            turns.append(command)
            if len(turns) == 2:
                os.kill(process._process.pid, signal.SIGKILL)
        return ask(process, command, *rest)

    monkeypatch.setattr(contestants.Process, "ask", dying)
    run = bench("run").Run("cpu", "fp32", 3, lambda text: None)
    try:
        first, second = (run.measure(replace(small, name=name), [ours, torch]) for name in ("first", "second"))
    finally:
        run.close()
    assert len(first.samples[ours].rounds) == 3 and torch not in first.samples
    assert "torch ended with code -9" in first.failed[torch]
    assert len(second.samples[torch].rounds) == 3 and not second.failed


def test_a_contestant_that_is_wrong_has_no_latencies(bench, monkeypatch):
    contestants, peers = bench("contestants"), bench("cases")
    act = next(case for case in peers.CASES if case.function == "act")
    ask = contestants.Process.ask

    def wrong(process, command, *rest):
        answer = ask(process, command, *rest)
        return answer + 1 if (process.contestant.name, command) == ("vgf", "load") else answer

    monkeypatch.setattr(contestants.Process, "ask", wrong)
    run = bench("run").Run("cpu", "fp32", 1, lambda text: None)
    try:
        with pytest.raises(RuntimeError, match="act-B1.*3 in 4 elements within"):
            run.latencies_of(act, contestants.Contestant("vgf", "fp32"), 2)
        assert not run.latencies
    finally:
        run.close()


def test_no_record_is_written_over_another_or_without_a_time(bench, monkeypatch, tmp_path):
    report, module = bench("report"), bench("run")
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    run = module.Run("cpu", "fp32", 1, lambda text: None)
    assert report.save(run) is None
    run.latencies = {"act": [1.0]}
    first, second = report.save(run), report.save(run)
    assert second.stem == f"{first.stem}-2" and len(list(tmp_path.iterdir())) == 2


def test_the_figure_leaves_out_cases_without_ours(tmp_path):
    pytest.importorskip("matplotlib")
    record = json.loads((ROOT / "bench/results/2026-11-28-amd-epyc-zen-3-2-cores.json").read_text())
    del record["cases"]["flow-L3"]["results"]["vgf"]
    path, picture = tmp_path / "record.json", tmp_path / "speed.png"
    path.write_text(json.dumps(record))
    drawn = processes.python(str(ROOT / "bench/figure.py"), str(path), "--out", str(picture))
    assert drawn.returncode == 0 and picture.exists(), drawn.stderr
