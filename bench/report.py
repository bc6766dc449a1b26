"""What a run says: one line a case in the terminal, everything in a JSON record."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
from alternate import ratios
from cases import ACTIONS, CRITICS, HIDDEN, OBS, PARTICLES, Case
from contestants import Contestant
from machine import describe_machine, new_path, slug
from run import Outcome, Run

RESULTS = Path(__file__).with_name("results")
DISTURBED = 0.1  # cores busy with something else, above which the summary says so


def lines(run: Run, contestants: list[Contestant]) -> Iterator[str]:
    """The summary: median milliseconds of ours, and how many times as long the others take, with quartiles."""
    ours, *peers = contestants
    yield f"{'':<18}{ours!s:>14}  " + "".join(f"{peer!s:<21}" for peer in peers)
    for case, outcome in run.outcomes.items():
        cells = "".join(f"{_cell(outcome, ours, peer):<21}" for peer in peers)
        yield f"{case.name:<18}{_milliseconds(outcome, ours):>14}  {cells}".rstrip()
    yield ""
    for case, outcome in run.outcomes.items():
        yield from _notes(case.name, outcome)
    for name, seconds in run.latencies.items():
        p50, p99 = (1e3 * np.quantile(seconds, q) for q in (0.5, 0.99))
        yield f"{name}: {len(seconds):,} calls, p50 {p50:.3f} ms, p99 {p99:.3f} ms"
    if run.limits:
        for size, rates in run.limits["gemm_tflops"].items():
            yield f"torch's own {size}: " + ", ".join(f"{p} {rate:.3g} TFLOP/s" for p, rate in rates.items())
        yield f"copy: {run.limits['copy_gb_s']:.0f} GB/s"


def save(run: Run) -> Path | None:
    """Write the record under results/ and return its path; None where nothing was measured."""
    if not run.latencies and not any(outcome.samples for outcome in run.outcomes.values()):
        return None
    machine = describe_machine()
    gpus = {description["gpu"] for description in run.descriptions.values() if "gpu" in description}
    name = gpus.pop() if gpus else f"{machine['cpu']} {machine['usable_cores']} cores"
    now = datetime.now(timezone.utc)
    options = [run.precision] if run.precision != "fp32" else []
    if isa := os.environ.get("VGF_CPU_ISA"):
        options.append(isa)
    path = new_path(RESULTS, "-".join([f"{now:%Y-%m-%d}", slug(name), *options]))
    record = {
        "when": now.isoformat(timespec="seconds"),
        "device": run.device,
        "precision": run.precision,
        "machine": machine,
        "limits": run.limits,
        "contestants": {str(contestant): about for contestant, about in run.descriptions.items()},
        "sizes": {"O": OBS, "A": ACTIONS, "N": PARTICLES, "E": CRITICS, "hidden": HIDDEN},
        "latencies_s": run.latencies,
        "cases": {case.name: _about(case) | _results(outcome) for case, outcome in run.outcomes.items()},
    }
    RESULTS.mkdir(exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")
    return path


def _about(case: Case) -> dict:
    return asdict(case) | {"critic": Path(case.critic).name}  # of a file, no path of this machine


def _results(outcome: Outcome) -> dict:
    ours = next((c for c in outcome.samples if c.name == "vgf"), None)
    results = {}
    for contestant, samples in outcome.samples.items():
        results[str(contestant)] = {
            "median_s": statistics.median(samples.rounds),
            "ratio": ratios(outcome.samples[ours].rounds, samples.rounds) if ours else None,
            "error": asdict(outcome.errors[contestant]),
            "disturbance": samples.disturbance,
            "seconds": samples.calls,
        }
    return {
        "results": results,
        "absent": {str(contestant): reason for contestant, reason in outcome.absent.items()},
        "failed": {str(contestant): message for contestant, message in outcome.failed.items()},
        "memory": outcome.memory,
        "density": outcome.density,
    }


def _milliseconds(outcome: Outcome, contestant: Contestant) -> str:
    samples = outcome.samples.get(contestant)
    return f"{1e3 * statistics.median(samples.rounds):.2f} ms" if samples else "-"


def _cell(outcome: Outcome, ours: Contestant, peer: Contestant) -> str:
    """A ratio with its quartiles; the time itself where there is nothing of ours to compare with."""
    if peer not in outcome.samples or ours not in outcome.samples:
        return _milliseconds(outcome, peer)
    ratio = ratios(outcome.samples[ours].rounds, outcome.samples[peer].rounds)
    return f"{ratio['median']:.2f}x [{ratio['low']:.2f} {ratio['high']:.2f}]"


def _notes(name: str, outcome: Outcome) -> Iterator[str]:
    if outcome.density:
        shares = ", ".join(f"{network} {share:.0%}" for network, share in outcome.density.items())
        yield f"{name}: hidden units on in some particle of a state: {shares}"
    for contestant, reason in outcome.absent.items():
        yield f"{name}: {contestant} did not run: {reason}"
    for contestant in outcome.failed:
        yield f"{name}: {contestant} FAILED"
    disturbance = max((samples.disturbance for samples in outcome.samples.values()), default=0.0)
    if disturbance > DISTURBED:
        yield f"{name}: NOT A QUIET MACHINE, something else kept up to {disturbance:.1f} cores busy"
    if outcome.memory:
        inputs, outputs, growth = (outcome.memory[key] for key in ("inputs", "outputs", "growth"))
        share = (inputs + growth) / (inputs + outputs)
        yield f"{name}: vgf needed {share:.2f}x its {(inputs + outputs) / 1e6:.1f} MB of inputs and outputs"
