"""bench.gpu on the CPU engine: the checks pass, the record is whole, a wrong engine is found out, and nothing that hangs or
dies takes the rest with it.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from pathlib import Path

import processes
import pytest

ROOT = Path(__file__).parents[1]
CODE = f"import sys; sys.path.append({str(ROOT)!r}); from bench.gpu import main; sys.exit(main(sys.argv[1:]))"

pytestmark = pytest.mark.skipif(
    not (ROOT / "bench").exists(), reason="bench/ is not part of this installation"
)


@pytest.fixture
def bench(monkeypatch):
    """Imports a module of bench/."""
    monkeypatch.setattr(sys, "path", [str(ROOT / "bench"), *sys.path])
    return importlib.import_module


def test_one_command_gives_one_record(tmp_path):
    done = processes.python("-c", CODE, "--out", str(tmp_path), "--device", "cpu", "--quick")
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = tmp_path.glob("*.json")
    record = json.loads(path.read_text())
    assert list(record["engines"]) == ["cpu"] and record["machine"]["cpu"]
    assert [record["parts"][part]["state"] for part in ("limits", "checks", "times")] == ["done"] * 3
    assert len(record["checks"]) == 12 * 12 and all(check["passed"] for check in record["checks"])
    timed = {(t["case"], t["contestant"]) for t in record["times"] if t["hot"] > 0 and t["cold"] > 0}
    assert timed == {(case, name) for case in ("flow-L1", "flow-L3") for name in ("vgf cpu", "torch")}
    assert all(0 < t["share_of_gemm"] for t in record["times"])
    assert done.stdout.splitlines()[-1].startswith("flow-L3") and "% of GEMM" in done.stdout


def test_time_that_is_up_ends_it(tmp_path):
    start = time.monotonic()
    options = ("--out", str(tmp_path), "--device", "cpu", "--quick", "--minutes", "0.1")
    done = processes.python("-c", CODE, *options)
    assert time.monotonic() - start < 60  # six seconds, and what starts and ends processes
    (path,) = tmp_path.glob("*.json")
    record = json.loads(path.read_text())
    assert len(record["checks"]) < 12 * 12 or any("absent" in t for t in record["times"])
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


def test_a_check_that_raises_is_a_failed_one(monkeypatch, bench):
    checks = bench("gpu_checks")

    def broken(functions, p):
        raise RuntimeError("an illegal memory access was encountered")

    monkeypatch.setattr(checks, "FUNCTIONS", {"value": broken})
    *_, last = checks.run("cpu", "cpu", ["fp32"], "few", skip=1)
    assert not last["passed"] and "illegal memory access" in last["failed"] and last["number"] == 1


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
