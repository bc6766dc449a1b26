"""One command for a machine with a GPU: is everything right there, and how fast is it?

    python -m bench.gpu --out DIR [--backend cuda triton] [--precision bf16 tf32 fp32] [--minutes 30] [--quick]

Four parts, for both engines unless told otherwise: every function, activation, norm and precision against the reference
in float64 (gpu_checks.py); what the GPU itself reaches (matrix products, copies); times against eager torch,
torch.compile and JAX with rates as shares of the GPU's own matrix product (gpu_times.py); and compute-sanitizer,
where it is there. Each has a share of the minutes, what one leaves goes to the next, and what matters comes first in
each; checks of several precisions run at once. Everything that may hang runs in a process of its own and is killed in time;
what has hung is not tried on and on.
All of it goes to one JSON file in DIR, written anew after every check and every time, so that an end before the end
loses nothing. A table comes last. Returns 1 where something is wrong or was not done.

--quick checks every activation with one norm and times two small cases; `--device cpu --quick` runs the same on the CPU
engine, to test this file.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
# `python -m bench.gpu` puts the checkout first, where the installed package should be found before it.
elsewhere = [path for path in sys.path if Path(path).resolve() != ROOT]
sys.path[:] = [str(HERE), *elsewhere, str(ROOT)]

import gpu_times
from children import Stopped, records
from contestants import Contestant, Process
from machine import describe_machine, slug, versions
from peers import Absent

import vgf_kernels

# Parts of the time, in order: ten minutes of thirty for the checks, and so on.
SHARES = {"limits": 1 / 30, "checks": 10 / 30, "times": 14 / 30, "sanitizer": 5 / 30}
# Seconds that a check may take: its process's start, the reference, and Triton's compilation.
SILENCE = {"cuda": 120, "triton": 180, "cpu": 60}
LEAST = 60  # seconds for the limits, whatever their share: all shares of a rate hang on them
MOST_ENDS = 8  # of the process of an engine's checks in one precision
# What is right does not hang on tuning, which takes long; and the references of several checks run at once.
DEFAULTS = {"VGF_TRITON_AUTOTUNE": "0", "OPENBLAS_NUM_THREADS": "2"}
TOOLS = ("memcheck", "racecheck", "synccheck")


class Session:
    """The record, and how much time is left for what."""

    def __init__(self, options: argparse.Namespace, engines: dict[str, vgf_kernels.Backend]) -> None:
        self.options = options
        self._writing = threading.Lock()
        self.engines = [name for name, engine in engines.items() if engine.available]
        self._end = time.monotonic() + 60 * options.minutes
        self._left = dict(SHARES)
        now = datetime.now(timezone.utc)
        device = next(engine.detail for engine in engines.values() if engine.available)
        self.path = options.out / f"{now:%Y-%m-%d-%H%M%S}-{slug(device)}.json"
        self.record = {
            "when": now.isoformat(timespec="seconds"),
            "device": device,
            "engines": {name: str(engine) for name, engine in engines.items()},
            "machine": describe_machine(),
            "versions": versions("torch", "triton", "jax", "jaxlib"),
            "parts": {},
            "limits": {},
            "checks": [],
            "times": [],
            "sanitizer": [],
        }
        options.out.mkdir(parents=True, exist_ok=True)
        self.write()

    def write(self) -> None:
        unfinished = self.path.with_suffix(".part")
        unfinished.write_text(json.dumps(self.record, indent=1) + "\n")
        unfinished.replace(self.path)

    def part(self, name: str, work) -> None:
        """Run work(deadline): all time that later parts do not need is its own."""
        del self._left[name]
        start = time.monotonic()
        deadline = self._end - 60 * self.options.minutes * sum(self._left.values())
        try:
            work(deadline)
            state = "done"
        except Exception as failure:  # noqa: BLE001  the other parts are still worth having
            state = f"{type(failure).__name__}: {failure}"
        seconds = time.monotonic() - start
        self.record["parts"][name] = {"state": state, "seconds": seconds}
        self.write()
        print(f"{name}: {seconds:.0f} s, {state.splitlines()[-1]}", flush=True)

    def limits(self, deadline: float) -> None:
        process = Process(Contestant("torch", "fp32"), self.options.device)
        try:
            self.record["limits"] = process.ask("limits", patience=max(LEAST, deadline - time.monotonic()))
        except Absent as reason:
            raise RuntimeError(str(reason)) from None
        finally:
            process.close()

    def checks(self, deadline: float) -> None:
        """Engines and precisions at once, each in a process of its own: what takes long is the reference."""
        jobs = list(itertools.product(self.engines, self.options.precision))
        with ThreadPoolExecutor(max(1, min(len(jobs), (os.cpu_count() or 2) - 1))) as pool:
            stopped = [reason for reason in pool.map(lambda job: self._check(*job, deadline), jobs) if reason]
        if stopped:
            raise Stopped("; ".join(stopped))

    def _check(self, engine: str, precision: str, deadline: float) -> str | None:
        """Why it could not go on; a check that raises, hangs or takes its process with it is a failed one, and the next
        begins in a new process."""
        skip = ends = 0
        while ends < MOST_ENDS:
            command = self._check_command(engine, [precision], "quick" if self.options.quick else "all")
            check, stopped = {"passed": True}, None
            try:
                for check in records([*command, "--skip", str(skip)], deadline, SILENCE[engine], **DEFAULTS):
                    if "passed" in check:
                        self._add(engine, check)
                        skip = check["number"] + 1
            except Stopped as reason:
                stopped = reason
            if stopped and stopped.in_time:
                name = f"checks of {engine} in {precision}"
                with self._writing:
                    self.record["parts"][name] = {"state": "time was up", "checked": skip}
                return None
            if stopped and "passed" in check and skip == ends == 0:  # of the process's start, once
                ends = 1
                continue
            if stopped and "passed" in check:
                return f"{engine} in {precision}: {stopped}"
            if stopped:
                check |= {"passed": False, "failed": str(stopped)}
                self._add(engine, check)
            if "failed" not in check:
                return None
            skip = check["number"] + 1
            ends += 2 if stopped else 1  # a hang takes long, so it counts twice
        return f"{engine} in {precision}: too many checks ended their process"

    def _add(self, engine: str, check: dict) -> None:
        with self._writing:
            self.record["checks"].append({"engine": engine} | check)
            self.write()

    def _check_command(self, engine: str, precisions: list[str], extent: str) -> list[str]:
        script = [sys.executable, str(HERE / "gpu_checks.py"), engine, self.options.device]
        return [*script, "--precision", *precisions, "--extent", extent]

    def times(self, deadline: float) -> None:
        options = self.options
        for record in gpu_times.run(
            options.device, self.engines, options.precision, options.quick, self.record["limits"], deadline
        ):
            self.record["times"].append(record)
            self.write()

    def sanitizer(self, deadline: float) -> None:
        """The compiled kernels, on a few checks; other kernels are their compilers' matter."""
        program = shutil.which("compute-sanitizer")
        if "cuda" not in self.engines or program is None:
            raise Stopped("no compute-sanitizer on PATH" if program is None else "the cuda engine is not there")
        for number, tool in enumerate(TOOLS):
            left = (deadline - time.monotonic()) / (len(TOOLS) - number)
            log = self.path.with_suffix(f".{tool}.log")
            command = [program, "--tool", tool, "--error-exitcode", "9", "--log-file", str(log)]
            command += self._check_command("cuda", ["bf16", "fp32"], "few")
            found, late = {"tool": tool, "log": log.name, "checks": 0, "passed": True}, False
            self.record["sanitizer"].append(found)
            try:  # without torch's pools, so that memory ends where a tensor does
                end = time.monotonic() + left
                for record in records(command, end, left, PYTORCH_NO_CUDA_MEMORY_CACHING="1"):
                    if "passed" in record:
                        found["checks"] += 1
                        found["passed"] &= record["passed"]
            except Stopped as reason:
                found["stopped"], late = str(reason), reason.in_time
                found["passed"] &= late
            if not found["checks"]:  # which is not known to be wrong where only time was up
                found["passed"] = None if late else False
                found["stopped"] = f"not a single check was done: {found.get('stopped', 'it said nothing')}"
            self.write()

    def wrong(self) -> list[str]:
        """What is not as it should be, a line each."""
        checks = [c for c in self.record["checks"] if not c["passed"]]
        times = [t for t in self.record["times"] if "failed" in t and t["contestant"].startswith("vgf")]
        tools = [s for s in self.record["sanitizer"] if s["passed"] is False]
        return [_line(found) for found in (*checks, *times, *tools)]

    def undone(self) -> list[str]:
        """What is not known to be right, a line each: parts and checks that did not come to their end."""
        parts = [{"part": name, **part} for name, part in self.record["parts"].items()]
        wanted = [p for p in parts if p["part"] != "sanitizer" and p["state"] != "done"]
        if not any("hot" in t for t in self.record["times"]):
            wanted.append({"part": "times", "state": "nothing was timed"})
        return [_line(found) for found in (*wanted, *(s for s in self.record["sanitizer"] if s["passed"] is None))]


def _line(found: dict) -> str:
    return " ".join(str(value) for value in found.values())


def main(arguments: list[str] | None = None) -> int:
    """Run; returns the exit status."""
    options = _parse(arguments)
    every = vgf_kernels.backends()
    engines = {name: every[name] for name in (["cpu"] if options.device == "cpu" else options.backend)}
    for name, engine in engines.items():
        if not engine.available:
            print(f"engine {name} cannot run here: {engine.detail}", file=sys.stderr)
    if not any(engine.available for engine in engines.values()):
        return 2
    session = Session(options, engines)
    print(f"record: {session.path}", flush=True)
    for name in SHARES:
        session.part(name, getattr(session, name))
    wrong, undone = session.wrong(), session.undone()
    print(f"{len(session.record['checks'])} checks, {len(wrong)} wrong, {len(undone)} parts not done")
    for word, found in (("WRONG", wrong), ("NOT DONE", undone)):
        for line in found:
            print(word, line[:500])
    for line in gpu_times.table(session.record["times"], session.engines):
        print(line)
    return 1 if wrong or undone or not session.record["checks"] else 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the JSON record")
    parser.add_argument(
        "--backend", nargs="+", choices=("cuda", "triton"), default=["cuda", "triton"], help="the engines"
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu checks the CPU engine")
    parser.add_argument(
        "--precision", nargs="+", choices=("fp32", "tf32", "bf16"), help="in which they compute; default: all they have"
    )
    parser.add_argument("--minutes", type=float, default=30, help="for everything, about; default: 30")
    parser.add_argument(
        "--quick", action="store_true", help="fewer networks, two small cases, fewer contestants"
    )
    options = parser.parse_args(arguments)
    options.precision = options.precision or (
        ["fp32"] if options.device == "cpu" else ["bf16", "tf32", "fp32"]
    )
    return options


if __name__ == "__main__":
    sys.exit(main())
