"""bench.gpu on the CPU engine: the checks pass, the record is whole, and a wrong engine is found out."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import processes
import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(
    not (ROOT / "bench").exists(), reason="bench/ is not part of this installation"
)


def test_one_command_gives_one_record(tmp_path):
    code = f"import sys; sys.path.append({str(ROOT)!r}); from bench.gpu import main; sys.exit(main(sys.argv[1:]))"
    done = processes.python("-c", code, "--out", str(tmp_path), "--device", "cpu", "--quick")
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = tmp_path.glob("*.json")
    record = json.loads(path.read_text())
    assert record["backend"] == "cpu" and record["machine"]["cpu"]
    assert len(record["checks"]) == 12 * 12 and all(check["passed"] for check in record["checks"])
    timed = {(t["case"], t["contestant"]) for t in record["times"] if t["hot"] > 0 and t["cold"] > 0}
    assert timed == {(case, name) for case in ("flow-L1", "flow-L3") for name in ("vgf", "torch")}
    assert all(0 < t["share_of_gemm"] for t in record["times"])


def test_without_a_gpu_it_says_so(tmp_path):
    from vgf_kernels import backends

    if backends()["triton"].available:
        pytest.skip("there is a GPU")
    code = f"import sys; sys.path.append({str(ROOT)!r}); from bench.gpu import main; sys.exit(main(sys.argv[1:]))"
    done = processes.python("-c", code, "--out", str(tmp_path))
    assert done.returncode == 2 and "engine triton cannot run here: " in done.stderr


def test_a_wrong_engine_fails_the_checks(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(ROOT / "bench"), *sys.path])
    checks = importlib.import_module("gpu_checks")
    value = checks.FUNCTIONS["value"]

    def coarse(functions, p):
        q = value(functions, p)
        return (q * 1024).round() / 1024 if q.dtype == "float32" and functions is not checks.reference else q

    monkeypatch.setattr(checks, "FUNCTIONS", {"value": coarse})
    assert not any(check["passed"] for check in checks.run("cpu", "cpu", ["fp32"], quick=True))
