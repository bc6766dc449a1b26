"""One command for a machine with a GPU: is everything right there, and how fast is it?

    python -m bench.gpu --out DIR [--backend triton|cuda] [--precision fp32 tf32 bf16] [--quick]

First every function, activation, norm and precision against the reference in float64 (gpu_checks.py), then times
against eager torch, torch.compile and JAX (gpu_times.py), with rates as shares of the GPU's own matrix product. All
of it goes to one JSON file in DIR. Returns 1 where something is wrong. --quick checks every activation with one norm
and leaves out the large cases; `--device cpu --quick` runs the same on the CPU engine, to test this file.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from datetime import datetime, timezone
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
# `python -m bench.gpu` puts the checkout first, where the installed package should be found before it.
elsewhere = [path for path in sys.path if Path(path).resolve() != ROOT]
sys.path[:] = [str(HERE), str(ROOT / "tests"), *elsewhere, str(ROOT)]

import gpu_checks
import gpu_times
from machine import describe_machine, slug

import vgf_kernels


def main(arguments: list[str] | None = None) -> int:
    """Run; returns the exit status."""
    options = _parse(arguments)
    backend = "cpu" if options.device == "cpu" else options.backend
    engine = vgf_kernels.backends()[backend]
    if not engine.available:
        print(f"engine {backend} cannot run here: {engine.detail}", file=sys.stderr)
        return 2
    os.environ["VGF_BACKEND"] = backend  # the contestants' processes follow it
    checks = gpu_checks.run(backend, options.device, options.precision, options.quick)
    wrong = [check for check in checks if not check["passed"]]
    print(f"{len(checks)} checks, {len(wrong)} failed")
    for check in wrong:
        print("FAILED", *check.values())
    times, limits = gpu_times.run(options.device, options.precision, options.quick)
    for line in gpu_times.lines(times):
        print(line)
    now = datetime.now(timezone.utc)
    record = {
        "when": now.isoformat(timespec="seconds"),
        "device": engine.detail,
        "backend": backend,
        "machine": describe_machine(),
        "limits": limits,
        "checks": checks,
        "times": times,
    }
    path = options.out / f"{now:%Y-%m-%d}-{slug(engine.detail)}-{backend}.json"
    options.out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"written: {path}")
    return 1 if wrong or any("failed" in t for t in times if t["contestant"] == "vgf") else 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the JSON record")
    parser.add_argument("--backend", choices=("triton", "cuda"), default="triton", help="the engine to check")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu checks the CPU engine")
    parser.add_argument("--precision", nargs="+", choices=("fp32", "tf32", "bf16"), default=None)
    parser.add_argument(
        "--quick", action="store_true", help="fewer networks, no large cases, fewer contestants"
    )
    options = parser.parse_args(arguments)
    options.precision = options.precision or (
        ["fp32"] if options.device == "cpu" else ["bf16", "tf32", "fp32"]
    )
    return options


if __name__ == "__main__":
    sys.exit(main())
