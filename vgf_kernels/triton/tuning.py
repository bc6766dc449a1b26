"""The choice among a few configurations by measuring them once, remembered on disk.

VGF_TRITON_AUTOTUNE=0 turns that off: the default configuration is used, whatever an earlier run has measured.
VGF_CACHE_DIR is where results are kept, `vgf-kernels` in the user's cache folder unless set.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from .plan import Config

REPEATS = 3  # timed runs of each
SECONDS = 20.0  # no candidate is begun when so much time has passed

chosen: dict[tuple, Config] = {}  # what this process has decided
_measuring = threading.Lock()  # or two threads would time each other's kernels


def enabled() -> bool:
    """Whether a measured configuration is wanted.

    Raises:
        ValueError: VGF_TRITON_AUTOTUNE is neither 0 nor 1.
    """
    wish = os.environ.get("VGF_TRITON_AUTOTUNE") or "1"
    if wish not in ("0", "1"):
        raise ValueError(f"VGF_TRITON_AUTOTUNE: expected 0 or 1, got {wish!r}; correct or unset it")
    return wish == "1"


def choose(key: tuple, candidates: Sequence[Config], measure: Callable[[Config], float] | None) -> Config:
    """The fastest of the candidates for what `key` names; the first where they cannot be measured.

    Args:
        key: everything the choice depends on: kernel, machine, versions and sizes.
        candidates: the default first.
        measure: seconds of a run with a configuration, infinite where it cannot run; None where nothing may be
            measured now, for example while a CUDA graph is captured.
    """
    if key in chosen:
        return chosen[key]
    if not enabled():
        chosen[key] = candidates[0]
    elif (known := _read().get(str(key))) in candidates:
        chosen[key] = known
    elif measure is None:
        return candidates[0]
    else:
        with _measuring:
            if key not in chosen:
                _measure(key, candidates, measure)
    return chosen[key]


def _measure(key: tuple, candidates: Sequence[Config], measure: Callable[[Config], float]) -> None:
    """Only a choice among all is remembered: most of the time goes to compilation, which the next process finds done."""
    times: dict[Config, float] = {}
    until = time.monotonic() + SECONDS
    for config in candidates:
        if time.monotonic() > until:
            break
        runs = [measure(config)]
        while len(runs) < REPEATS and runs[-1] < SECONDS:
            runs.append(measure(config))
        times[config] = min(runs)
    chosen[key] = min(times, key=times.__getitem__)
    if len(times) == len(candidates):
        _write(str(key), chosen[key])


def file() -> Path:
    """Where the choices are kept."""
    folder = os.environ.get("VGF_CACHE_DIR")
    if folder:
        return Path(folder) / "triton.json"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vgf-kernels" / "triton.json"


def _read() -> dict[str, Config]:
    try:
        return {key: Config(**fields) for key, fields in json.loads(file().read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError, RuntimeError):  # not there, or not ours: measured anew
        return {}


def _write(key: str, config: Config) -> None:
    """Add a choice to the file, in one step, so that no other process reads half of it."""
    try:
        path = file()
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".json", delete=False) as part:
            json.dump({k: asdict(c) for k, c in (_read() | {key: config}).items()}, part, indent=1)
        os.replace(part.name, path)
    except (OSError, RuntimeError):  # a read-only home, or none: the choice holds for this process
        return
