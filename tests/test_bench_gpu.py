"""bench.gpu on the CPU engine: the checks pass, the record is whole, a wrong engine is found out, and nothing that hangs or
dies takes the rest with it.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import processes
import pytest

from vgf_kernels import FlowConfig

ROOT = Path(__file__).parents[1]
CODE = f"import sys; sys.path.append({str(ROOT)!r}); from bench.gpu import main; sys.exit(main(sys.argv[1:]))"

pytestmark = pytest.mark.skipif(
    not (ROOT / "bench").exists(), reason="bench/ is not part of this installation"
)


def test_one_command_gives_one_record(tmp_path):
    done = processes.python("-c", CODE, "--out", str(tmp_path), "--device", "cpu", "--quick")
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = tmp_path.glob("*.json")
    record = json.loads(path.read_text())
    assert list(record["engines"]) == ["cpu"] and record["machine"]["cpu"]
    assert [record["parts"][part]["state"] for part in ("checks", "limits", "times")] == ["done"] * 3
    assert len(record["checks"]) == 12 * 12 and all(check["passed"] for check in record["checks"])
    timed = {(t["case"], t["contestant"]) for t in record["times"] if t["hot"] > 0 and t["cold"] > 0}
    assert timed == {(case, name) for case in ("flow-L1", "flow-L3") for name in ("vgf cpu", "torch")}
    assert all(0 < t["share_of_gemm"] for t in record["times"])
    assert done.stdout.splitlines()[-1].startswith("flow-L3") and "% of GEMM" in done.stdout


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_stages_are_timed(tmp_path, norm):
    out = tmp_path / "stages.json"
    options = ["--device", "cpu", "--backend", "cpu", "--precision", "fp32", "--norm", norm, "--states", "1", "3"]
    done = processes.python(str(ROOT / "bench/gpu_stages.py"), "--out", str(out), *options)
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads(out.read_text())
    found = record["milliseconds"]
    assert record["norm"] == norm
    assert list(found) == ["1", "3"]
    assert all(found[states]["act"] > found[states]["value"] > 0 for states in found)


def test_time_that_is_up_ends_it(tmp_path):
    start = time.monotonic()
    options = ("--out", str(tmp_path), "--device", "cpu", "--quick", "--minutes", "0.1")
    done = processes.python("-c", CODE, *options)
    assert time.monotonic() - start < 60  # six seconds, and what starts and ends processes
    (path,) = tmp_path.glob("*.json")
    record = json.loads(path.read_text())
    assert len(record["checks"]) < 12 * 12 or any("absent" in t for t in record["times"])
    assert done.returncode == 1 and "\nNOT DONE " in done.stdout
    assert set(record["parts"]) >= {"limits", "checks", "times", "sanitizer"}, done.stderr


def test_without_a_gpu_it_says_so(tmp_path):
    from vgf_kernels import backends

    if backends()["triton"].available or backends()["cuda"].available:
        pytest.skip("there is a GPU")
    done = processes.python("-c", CODE, "--out", str(tmp_path))
    assert done.returncode == 2
    assert all(f"engine {name} cannot run here: " in done.stderr for name in ("cuda", "triton"))


def test_a_wrong_engine_fails_the_checks(monkeypatch, bench):
    checks = bench("gpu_checks")
    value = checks.FUNCTIONS["value"]

    def coarse(functions, p):
        q = value(functions, p)
        return (q * 1024).round() / 1024 if q.dtype == "float32" and functions is not checks.reference else q

    monkeypatch.setattr(checks, "FUNCTIONS", {"value": coarse})
    results = [check for check in checks.run("cpu", "cpu", ["fp32"], "few") if "passed" in check]
    assert len(results) == 2 and not any(check["passed"] for check in results)


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_an_engine_that_takes_no_step_fails_the_checks(monkeypatch, bench, precision):
    """Also where bf16 is allowed some percent."""
    checks = bench("gpu_checks")

    class Idle(checks.Engine):
        def __getattr__(self, name):
            run = super().__getattr__(name)

            def call(*arguments, **options):
                still = [replace(a, num_steps=0) if isinstance(a, FlowConfig) else a for a in arguments]
                return run(*still, **options)

            return call

    monkeypatch.setattr(checks, "Engine", Idle)
    moving = ("flow", "flow without kernel", "flow, fixed bandwidth", "transport")
    monkeypatch.setattr(checks, "FUNCTIONS", {name: checks.FUNCTIONS[name] for name in moving})
    results = [check for check in checks.run("cpu", "cpu", [precision], "few") if "passed" in check]
    assert len(results) == 2 * len(moving) and not any(check["passed"] for check in results)


def test_a_check_that_raises_is_a_failed_one(monkeypatch, bench):
    checks = bench("gpu_checks")

    def broken(functions, p):
        raise RuntimeError("an illegal memory access was encountered")

    monkeypatch.setattr(checks, "FUNCTIONS", {"value": broken})
    *_, last = checks.run("cpu", "cpu", ["fp32"], "few", skip=1)
    assert not last["passed"] and "illegal memory access" in last["failed"] and last["number"] == 1


CHECKS = """
import argparse, itertools, json, time
parser = argparse.ArgumentParser()
parser.add_argument("--precision", nargs="+")
parser.add_argument("--skip", type=int)
options = parser.parse_args()
for number, (function, precision) in enumerate(itertools.product("abcd", options.precision)):
    if number < options.skip:
        continue
    about = {"function": function, "precision": precision, "number": number}
    print(json.dumps(about), flush=True)
    if precision == "bf16":
        time.sleep(99)
    print(json.dumps(about | {"passed": True}), flush=True)
"""


def test_a_precision_that_hangs_is_left_out(monkeypatch, bench, tmp_path):
    gpu = bench("gpu")
    options = gpu._parse(["--out", str(tmp_path), "--device", "cpu", "--precision", "bf16", "fp32"])
    session = gpu.Session(options, {"cpu": importlib.import_module("vgf_kernels").backends()["cpu"]})
    monkeypatch.setattr(gpu, "SILENCE", {"cpu": 2})

    def command(engine, precisions, extent):
        return [sys.executable, "-c", CHECKS, "--precision", *precisions]

    monkeypatch.setattr(session, "_check_command", command)
    monkeypatch.setattr(gpu, "MOST_ENDS", 4)
    with pytest.raises(gpu.Stopped, match="cpu in bf16: too many checks ended their process"):
        session.checks(time.monotonic() + 60)
    (path,) = tmp_path.glob("*.json")
    found = [(c["precision"], c["function"], c["passed"]) for c in json.loads(path.read_text())["checks"]]
    assert sorted(found) == [("bf16", "a", False), ("bf16", "b", False), *(("fp32", f, True) for f in "abcd")]


def test_an_engine_that_cannot_start_leaves_the_other_to_be_checked(monkeypatch, bench, tmp_path):
    gpu = bench("gpu")
    options = gpu._parse(["--out", str(tmp_path), "--device", "cpu", "--precision", "fp32"])
    session = gpu.Session(options, {"cpu": importlib.import_module("vgf_kernels").backends()["cpu"]})
    session.engines = ["cuda", "cpu"]

    def command(engine, precisions, extent):
        return [sys.executable, "-c", CHECKS if engine == "cpu" else "exit(3)", "--precision", *precisions]

    monkeypatch.setattr(session, "_check_command", command)
    with pytest.raises(gpu.Stopped, match="cuda in fp32: it ended with code 3"):
        session.checks(time.monotonic() + 60)
    assert [check["engine"] for check in session.record["checks"]] == ["cpu"] * 4


@pytest.fixture
def played(monkeypatch, bench):
    """Times of contestants that load what is right and take a second a call, but for a name and a command, after
    `before(patience)`, to which there is no answer.
    """
    times, contestants, cases = bench("gpu_times"), bench("contestants"), bench("cases")

    def play(unanswered, seconds, before=lambda patience: None, precision="fp32"):
        class Player:
            def __init__(self, contestant, device, **environment):
                self.contestant = contestant

            def ask(self, command, argument=None, patience=None):
                if (self.contestant.name, command) == unanswered:
                    before(patience)
                    raise contestants.Silent("no answer")
                if command == "load":
                    return cases.evaluate(argument, cases.make_data(argument), np.float32)
                return [1.0] if command == "turn" else 1.0

            def close(self):
                pass

        monkeypatch.setattr(times, "Process", Player)
        return list(times.run("cpu", ["cpu"], [precision], True, {}, time.monotonic() + seconds))

    return play


def test_who_does_not_answer_is_not_timed_again(played):
    records = played(("vgf", "turn"), 600)
    ours = [record for record in records if record["contestant"] == "vgf cpu"]
    assert ours[0]["failed"] == "no answer" and ours[0]["error"] and ours[0]["silent"] == "turn"
    assert ours[1]["absent"] == "it did not answer before"
    assert all(record["hot"] == 1.0 for record in records if record["contestant"] == "torch")


def test_who_is_not_ready_in_time_keeps_nobody_waiting(played):
    records = played(("torch", "load"), 10, before=time.sleep)
    found = {record["contestant"]: record for record in records if record["case"] == records[0]["case"]}
    assert found["torch"]["absent"] == "time was up" and found["vgf cpu"]["hot"] == 1.0


def test_nobody_is_their_own_bar(played):
    """In low precision eager torch's error is the bar."""
    records = played(("torch", "load"), 600, precision="bf16")
    ours = [record for record in records if record["contestant"] == "vgf cpu"]
    assert ours and all(record["absent"].startswith("not verified: eager torch") for record in ours)
    assert all("hot" in record for record in played(("nobody", "load"), 600, precision="bf16"))


def test_checks_and_tools_whose_time_was_up_are_not_done(bench, tmp_path, monkeypatch):
    gpu = bench("gpu")
    options = gpu._parse(["--out", str(tmp_path), "--device", "cpu", "--precision", "bf16"])
    session = gpu.Session(options, {"cpu": importlib.import_module("vgf_kernels").backends()["cpu"]})
    session.engines, session.record["times"] = ["cuda"], [{"contestant": "vgf cuda", "hot": 1.0}]
    slow = [sys.executable, "-c", CHECKS]
    monkeypatch.setattr(session, "_check_command", lambda engine, precisions, extent: [*slow, "--precision", *precisions])
    monkeypatch.setattr(gpu.shutil, "which", lambda name: name)
    session.part("checks", lambda deadline: session.checks(time.monotonic() + 1))
    assert session.wrong() == [] and session.undone() == ["checks of cuda in bf16 time was up 0"]
    records = gpu.records
    for program, state in (("true", "it said nothing"), ("sleep", "its time was up")):
        monkeypatch.setattr(gpu, "records", lambda _, *when, program=program, **env: records([program, "9"], *when, **env))
        session.record["sanitizer"] = []
        session.sanitizer(time.monotonic() + 1)
        told = session.wrong() if program == "true" else session.undone()[1:]
        assert len(told) == 3 and all(state in line for line in told)


CHILDREN = {
    "hangs": ("import time; time.sleep(99)", "no word from it for 1 s", False),
    "dies": ("import os; print('ouch', file=sys.stderr); os._exit(3)", "it ended with code 3; ouch", False),
    "goes on": ("import itertools, time\nfor _ in itertools.count(): print('{}', flush=True), time.sleep(0.1)",
                "its time was up", True),
}  # fmt: skip


@pytest.mark.parametrize("what", CHILDREN)
def test_what_a_child_has_written_is_kept(bench, what):
    children = bench("children")
    then, why, in_time = CHILDREN[what]
    code = f"import sys; print('noise'); print('{{\"number\": 7}}', flush=True)\n{then}"
    got = []
    with pytest.raises(children.Stopped, match=why) as stopped:
        for record in children.records([sys.executable, "-c", code], time.monotonic() + 3, 1):
            got.append(record)
    assert got[0] == {"number": 7} and stopped.value.in_time == in_time


def test_a_contestant_that_does_not_answer_is_killed(bench):
    contestants = bench("contestants")
    process = contestants.Process(contestants.Contestant("torch", "fp32"), "cpu")
    try:
        with pytest.raises(RuntimeError, match="torch, describe: no answer within 0 s"):
            process.ask("describe", patience=0.01)
    finally:
        process.close()


def test_who_compiles_nothing_is_timed_first_and_large_cases_alone(bench):
    times = bench("gpu_times")
    jobs = times._jobs(["cuda", "triton"], ["bf16"], quick=False)
    small, large = (next(group for group in times._groups(jobs) if group[0].case.large == is_large) for is_large in (False, True))
    names = [{str(entry) for _, entry in wave} for wave in times._waves(small)]
    assert names == [
        {"torch", "vgf cuda"},
        {"vgf triton", "torch.compile-graphs", "jax", "jax-unrolled", "vgf-jax"},
        {"torch.compile"},
    ]
    assert sum(map(len, times._waves(small))) == sum(len(job.entries) for job in small)
    assert [times._compiles(wave) for wave in times._waves(small)] == [False, True, True]
    alone = list(times._waves(large))
    assert [len(wave) for wave in alone] == [1] * len(large[0].entries) and alone[0][0][1] == times.Entry("torch")


def test_a_silent_load_takes_no_other_result_with_it(bench, monkeypatch):
    times = bench("gpu_times")
    first, second = times._jobs(["cpu"], ["fp32"], quick=True)
    entry = times.Entry("vgf", "cpu")

    class Process:
        def close(self):
            pass

    def load(job, entry, device, until):
        silent = {"silent": "load", "absent": "no answer"} if job is first else {}
        return times.Loaded(job, entry, Process(), None if silent else np.zeros(1), silent)

    monkeypatch.setattr(times, "_load", load)
    monkeypatch.setattr(times, "_truth", lambda case, precision: (None, None))
    monkeypatch.setattr(times, "_time", lambda one, *rest: one.record or {"hot": 1.0})
    silent = {}
    got = list(times._wave([(first, entry), (second, entry)], silent, "cpu", {}, time.monotonic() + 60))
    assert "absent" in got[0] and got[1]["hot"] == 1.0
    (later,) = times._wave([(second, entry)], silent, "cpu", {}, time.monotonic() + 60)
    assert later["absent"] == "it did not answer before"
