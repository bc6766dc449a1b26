"""Times of every contestant on one GPU: with a cold and a hot cache, and as a replayed CUDA graph.

Contestants run in processes of their own, one at a time (contestants.py); each is verified before it is timed.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator
from dataclasses import asdict, replace

import numpy as np
from cases import ACTIONS, CASES, CRITICS, HIDDEN, Case, evaluate, make_data
from contestants import Absent, Contestant, Process
from limits import measure_limits
from peers import MODULES
from verify import check, error_of, plain_error

CALLS = 20
KINDS = ("cold", "hot", "graph")


def run(device: str, precisions: list[str], quick: bool) -> tuple[list[dict], dict]:
    """One record a case, precision and contestant; and what the machine itself reaches."""
    limits = measure_limits(device)
    cases = [_small(case) for case in CASES if not case.large][:2] if quick else CASES
    names = [name for name in MODULES if not quick or name in ("vgf", "torch")]
    times = []
    for case in cases:
        truths = [evaluate(case, make_data(case), dtype) for dtype in (np.float64, np.float32)]
        for precision in precisions:
            eager = None  # the error of eager torch, which sets the bar in low precision
            for name in sorted(names, key=lambda name: name != "torch"):
                record, error = _time(case, Contestant(name, precision), device, truths, eager, limits)
                eager = error if name == "torch" else eager
                times.append({"case": case.name, "contestant": name, "precision": precision} | record)
    return times, limits


def _small(case: Case) -> Case:
    return replace(case, states=16, batch=min(case.batch, 16))


def _time(case, contestant, device, truths, eager, limits) -> tuple[dict, object]:
    process = Process(contestant, device)
    try:
        result = process.ask("load", case)
        error = error_of(case, result, truths[0], contestant.precision)
        plain = error_of(case, truths[1], truths[0], "fp32")
        check(case, error, plain_error(plain, eager or error, contestant.precision), contestant.precision)
        record = {
            "error": asdict(error),
            "cold": statistics.median(process.ask("turn", 3 if case.large else CALLS)),
        }
        record["hot"] = process.ask("train", 3 if case.large else CALLS)
        try:
            record["graph"] = process.ask("graph", 3 if case.large else CALLS)
        except Absent as reason:
            record["graph_absent"] = str(reason)
        fastest = min(record[kind] for kind in KINDS if kind in record)
        return record | _rates(case, contestant.precision, fastest, limits), error
    except Absent as reason:
        return {"absent": str(reason)}, None
    except (RuntimeError, AssertionError) as failure:
        return {"failed": str(failure)}, None
    finally:
        process.close()


def flops(case: Case) -> float:
    """Of one call of a flow: hidden layers and the action part of the first, forward and back."""
    inner = ACTIONS * HIDDEN[0] + sum(a * b for a, b in itertools.pairwise(HIDDEN))
    return 4.0 * CRITICS * inner * case.rows * case.flow_steps


def _rates(case: Case, precision: str, seconds: float, limits: dict) -> dict:
    if case.function != "flow":
        return {}
    rate = flops(case) / seconds / 1e12
    gemm = max(rates[precision] for rates in limits["gemm_tflops"].values() if precision in rates)
    return {"tflops": rate, "share_of_gemm": rate / gemm}


def lines(times: list[dict]) -> Iterator[str]:
    """A summary: milliseconds, and how many times as long as ours the others take."""
    ours = {(t["case"], t["precision"]): t for t in times if t["contestant"] == "vgf"}
    for t in times:
        head = f"{t['case']:<18}{t['precision']:<6}{t['contestant']:<14}"
        if "hot" not in t:
            yield head + next(f"{key}: {t[key].splitlines()[-1]}" for key in ("absent", "failed") if key in t)
            continue
        mine = ours[t["case"], t["precision"]]
        cells = [
            f"{kind} {1e3 * t[kind]:.3f} ms" + (f" ({t[kind] / mine[kind]:.2f}x)" if kind in mine else "")
            for kind in KINDS
            if kind in t
        ]
        rate = [f"{t['tflops']:.1f} TFLOP/s, {t['share_of_gemm']:.0%} of GEMM"] if "tflops" in t else []
        yield head + ", ".join(cells + rate)
