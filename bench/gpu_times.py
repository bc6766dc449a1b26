"""Times of every contestant on one GPU: with a cold and a hot cache, and as a replayed CUDA graph.

Contestants run in processes of their own (contestants.py). They compile at once, which is what takes long; then one at a time is
verified and timed.
"""

from __future__ import annotations

import itertools
import os
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace

import numpy as np
from cases import ACTIONS, CASES, CRITICS, HIDDEN, Case
from contestants import Contestant, Process, Silent
from peers import Absent
from verify import ORDERS, Error, check, error_of, expected, plain_error

CALLS = 20
KINDS = ("cold", "hot", "graph")
# seconds; torch.compile and Triton tune while they load, the cuda engine does not
LONGEST = {"load": 240, "turn": 60, "train": 60, "graph": 60}
CUDA_LOAD = 90
LOADING = 0.6  # of the time that is left: who is not ready then is left out, so that the others are timed
AT_ONCE = ("torch", "vgf cuda", "vgf cpu")  # who compiles nothing
LAST = ("torch.compile",)  # who takes longest to compile
PEERS = ("torch", "torch.compile-graphs", "jax", "jax-unrolled", "torch.compile")
# As many particles in states of 1,000 and of 10: what the second takes less is the pairwise part's.
PAIRS = [
    Case("flow-N1000", "flow", states=256, batch=256, flow_steps=1, particles=1000),
    Case("flow-N10-256k", "flow", states=25_600, batch=25_600, flow_steps=1),
]
# What decides comes first: time may run out.
FIRST = ("flow-L3", "td_target-K10-L3", "act-B1-K10-L3", "flow-1M", "flow-N1000", "flow-N10-256k")


@dataclass(frozen=True)
class Entry:
    """A contestant, or this library on one of its engines."""

    name: str  # of the contestant
    engine: str | None = None

    def __str__(self) -> str:
        return f"vgf {self.engine}" if self.engine else self.name


@dataclass
class Job:
    """A case at a precision: who takes part, and what the results are held against."""

    case: Case
    precision: str
    entries: list[Entry]
    eager: Error | None = field(default=None, compare=False)  # the error of eager torch, the bar in low precision


@dataclass
class Loaded:
    """A contestant's process, with what it computed when it loaded a case; or, without a result, why there is none."""

    job: Job
    entry: Entry
    process: Process
    result: np.ndarray | None = None
    record: dict = field(default_factory=dict)


def run(
    device: str, engines: list[str], precisions: list[str], quick: bool, limits: dict, deadline: float
) -> Iterator[dict]:
    """One record a case, precision and contestant, until the deadline (time.monotonic()).

    Contestants compile at once and are then timed alone. Whoever has not answered once is not asked again in that precision.
    """
    silent: dict = {}  # a contestant and precision: the command that it did not answer
    waves = [asked for jobs in _groups(_jobs(engines, precisions, quick)) for asked in _waves(jobs)]
    for asked in sorted(waves, key=_compiles):  # what compiles nothing in every precision and size, then what takes longer
        yield from _wave(asked, silent, device, limits, deadline)


def _compiles(asked: list[tuple[Job, Entry]]) -> bool:
    return any(str(entry) not in AT_ONCE for _, entry in asked)


def _waves(jobs: list[Job]) -> Iterator[list[tuple[Job, Entry]]]:
    """Who loads beside each other: first who compiles nothing, so that these times are there whatever compiling takes, and who
    tunes longest last; of a large case each alone, since what its call needs stays its process's."""
    pairs = [(job, entry) for job in jobs for entry in job.entries]
    if jobs[0].case.large:
        yield from ([pair] for pair in pairs)
        return
    turn = dict.fromkeys(AT_ONCE, 0) | dict.fromkeys(LAST, 2)
    for now in range(3):
        yield [(job, entry) for job, entry in pairs if turn.get(str(entry), 1) == now]


def _wave(asked: list, silent: dict, device: str, limits: dict, deadline: float) -> Iterator[dict]:
    """Load, then time; adds to `silent` who does not answer."""
    now = time.monotonic()
    until = now + LOADING * (deadline - now)
    loaded: dict = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        if now < deadline:
            for job, entry in asked:
                if (entry, job.precision) not in silent:
                    loaded[job.case.name, entry] = pool.submit(_load, job, entry, device, until)
            for job in {id(job): job for job, _ in asked}.values():  # in the meantime
                _truth(job.case, job.precision)
    try:
        for job, entry in asked:
            about = {"case": job.case.name, "contestant": str(entry), "precision": job.precision}
            one = loaded.get((job.case.name, entry))
            if one is None or silent.get((entry, job.precision), "load") != "load":
                why = "it did not answer before" if (entry, job.precision) in silent else "time was up"
                yield about | {"absent": why}
                continue
            result = _time(one.result(), *_truth(job.case, job.precision), limits, deadline)
            if "silent" in result:
                silent[entry, job.precision] = result["silent"]
            yield about | result
    finally:
        for one in loaded.values():
            one.result().process.close()


def _truth(case: Case, precision: str) -> tuple[np.ndarray, Error]:
    return expected(case, ORDERS if precision == "fp32" else 1)


def _groups(jobs: list[Job]) -> Iterator[list[Job]]:
    """Jobs whose contestants have room beside each other: small ones of a precision, or a large one."""
    small: list[Job] = []
    for job in jobs:
        if small and (job.case.large or job.precision != small[0].precision):
            yield small
            small = []
        if job.case.large:
            yield [job]
        else:
            small.append(job)
    if small:
        yield small


def _jobs(engines: list[str], precisions: list[str], quick: bool) -> list[Job]:
    """What decides in every precision, then the rest; in each, the large ones last."""
    ours = [Entry("vgf", engine) for engine in engines]
    # eager torch first: its error is the bar
    everyone = [Entry("torch"), *ours, *map(Entry, PEERS[1:]), *([Entry("vgf-jax")] if "cuda" in engines else [])]
    if quick:
        small = [replace(case, states=16, batch=16) for case in CASES if not case.large][:2]
        return [Job(case, precision, [Entry("torch"), *ours]) for precision in precisions for case in small]
    cases = {case.name: case for case in [*CASES, *PAIRS]}
    rest = sorted((name for name in cases if name not in FIRST), key=lambda name: cases[name].large)
    return [
        Job(cases[name], precision, everyone if name != "flow-N10-256k" else everyone[: 1 + len(ours)])
        for names in (FIRST, rest)
        for precision in precisions
        for name in names
    ]


def _ask(process: Process, entry: Entry, record: dict, deadline: float, command: str, argument=None):
    left = deadline - time.monotonic()
    if left <= 0:
        raise Absent("time was up")
    longest = CUDA_LOAD if (entry.engine, command) == ("cuda", "load") else LONGEST[command]
    try:
        return process.ask(command, argument, patience=min(longest, left))
    except Silent:
        if left <= longest:
            raise Absent("time was up") from None
        record["silent"] = command
        raise


def _load(job: Job, entry: Entry, device: str, until: float) -> Loaded:
    environment = {"VGF_BACKEND": entry.engine} if entry.engine else {}
    one = Loaded(job, entry, Process(Contestant(entry.name, job.precision), device, **environment))
    try:
        one.result = _ask(one.process, entry, one.record, until, "load", job.case)
    except Absent as reason:
        one.record["absent"] = str(reason)
    except RuntimeError as failure:
        one.record["failed"] = str(failure)
    return one


def _time(one: Loaded, truth: np.ndarray, plain: Error, limits: dict, deadline: float) -> dict:
    job, case, record = one.job, one.job.case, one.record  # what is there stays, whatever comes then
    calls = 3 if case.large else CALLS

    def ask(command: str):
        return _ask(one.process, one.entry, record, deadline, command, calls)

    try:
        if one.result is None:
            return record
        error = error_of(case, one.result, truth, job.precision)
        if one.entry.name == "torch":
            job.eager = error
        if job.eager is None and job.precision != "fp32":
            raise Absent("not verified: eager torch, whose error is the bar, has none")
        check(case, error, plain_error(plain, job.eager or plain, job.precision), job.precision)
        record["error"] = asdict(error)
        record["cold"] = statistics.median(ask("turn"))
        record["hot"] = ask("train")
        try:
            record["graph"] = ask("graph")
        except Absent as reason:
            record["graph_absent"] = str(reason)
        fastest = min(record[kind] for kind in KINDS if kind in record)
        return record | _rates(case, job.precision, fastest, limits)
    except Absent as reason:
        return record | {"absent": str(reason)}
    except (RuntimeError, AssertionError) as failure:
        return record | {"failed": str(failure)}
    finally:
        one.process.close()


def flops(case: Case) -> float:
    """Of one call of a flow: hidden layers and the action part of the first, forward and back."""
    inner = ACTIONS * HIDDEN[0] + sum(a * b for a, b in itertools.pairwise(HIDDEN))
    return 4.0 * CRITICS * inner * case.rows * case.flow_steps


def _rates(case: Case, precision: str, seconds: float, limits: dict) -> dict:
    if case.function != "flow":
        return {}
    rate = flops(case) / seconds / 1e12
    sizes = limits.get("gemm_tflops", {}).values()
    gemm = max((rates[precision] for rates in sizes if precision in rates), default=None)
    return {"tflops": rate} | ({"share_of_gemm": rate / gemm} if gemm else {})


def table(times: list[dict], engines: list[str]) -> Iterator[str]:
    """A line a case and precision: our milliseconds, and how many times as long as our first engine the others take."""
    jobs = {(t["case"], t["precision"]): {} for t in times}
    for t in times:
        jobs[t["case"], t["precision"]][t["contestant"]] = t
    for (case, precision), entries in jobs.items():
        timed = {name: t for name, t in entries.items() if "hot" in t}
        ours = [f"vgf {engine}" for engine in engines]
        best = {name: min(t[kind] for kind in KINDS if kind in t) for name, t in timed.items()}
        bar = next((best[name] for name in ours if name in best), None)
        cells = []
        for name, t in entries.items():
            if name not in timed:
                state = "failed" if "failed" in t else "absent"
                cells.append(f"{name} {state}")
            elif name in ours:
                kinds = " ".join(f"{kind} {1e3 * t[kind]:.3f}" for kind in KINDS if kind in t)
                share = f", {t['share_of_gemm']:.0%} of GEMM" if "share_of_gemm" in t else ""
                cells.append(f"{name} {kinds} ms{share}")
            elif bar:
                cells.append(f"{name} {best[name] / bar:.2f}x")
            else:
                cells.append(f"{name} {1e3 * best[name]:.3f} ms")
        yield f"{case:<18}{precision:<6}" + " | ".join(cells)
    hot = {(t["contestant"], t["precision"], t["case"]): t["hot"] for t in times if "hot" in t}
    for (name, precision, case), seconds in hot.items():
        alone = hot.get((name, precision, "flow-N10-256k"))
        if case == "flow-N1000" and name.startswith("vgf") and alone:
            yield f"{name}, {precision}: the pairwise part is {1 - alone / seconds:.0%} of a step with N = 1,000"
