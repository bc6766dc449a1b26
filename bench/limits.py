"""What the machine itself reaches through torch: matrix products and copies. Ceilings for the figures of this suite."""

from __future__ import annotations

import itertools
import statistics
import time

import torch

# Rows of 2,560 and 100,000 particles in a hidden layer, and a product large enough for a GPU's peak.
SIZES = {"cpu": [(2560, 512, 512)], "cuda": [(100_000, 512, 512), (8192, 8192, 8192)]}
PRECISIONS = {"cpu": ("fp32", "bf16"), "cuda": ("fp32", "tf32", "bf16")}
WARM_UPS, REPEATS = 3, 20
PATIENCE = 3.0  # seconds for a size on a CPU, some of which take one for a product in bfloat16


def measure_limits(device: str) -> dict:
    """GEMM rates in TFLOP/s by size and precision, and copy bandwidth in GB/s."""
    rates = {
        f"GEMM {m} x {n} x {k}": {p: _gemm_rate(device, p, (m, n, k)) for p in PRECISIONS[device]}
        for m, n, k in SIZES[device]
    }
    torch.set_float32_matmul_precision("highest")
    return {"gemm_tflops": rates, "copy_gb_s": _copy_rate(device)}


def _gemm_rate(device: str, precision: str, size: tuple[int, int, int]) -> float:
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    m, n, k = size
    a, b = torch.randn(m, k, device=device).to(dtype), torch.randn(k, n, device=device).to(dtype)
    out = torch.empty(m, n, device=device, dtype=dtype)
    return 2 * m * n * k / _seconds(device, lambda: torch.mm(a, b, out=out)) / 1e12


def _copy_rate(device: str) -> float:
    """Bytes read plus bytes written a second, in GB/s, of a copy too large for any cache."""
    source = torch.ones((2 << 30 if device == "cuda" else 256 << 20) // 4, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _seconds(device, lambda: target.copy_(source)) / 1e9


def _seconds(device: str, call) -> float:
    """Median time of a call. On a GPU by events around each of a train of calls, so launches are hidden."""
    if device != "cuda":
        times: list[float] = []
        while len(times) < WARM_UPS + REPEATS and sum(times) < PATIENCE:
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        return statistics.median(times[WARM_UPS:] or times)
    for _ in range(WARM_UPS):
        call()
    events = [torch.cuda.Event(enable_timing=True) for _ in range(REPEATS + 1)]
    torch.cuda.synchronize()
    events[0].record()
    for event in events[1:]:
        call()
        event.record()
    torch.cuda.synchronize()
    return statistics.median(a.elapsed_time(b) for a, b in itertools.pairwise(events)) / 1e3
