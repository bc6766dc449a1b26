"""vgf-kernels demo: particles flowing over a two-dimensional value landscape, as a picture; and a timing."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

from .. import numpy as vgf
from ..config import FlowConfig
from ..engines import backends, resolve
from ..mlp import MLP
from . import landscape

BUDGETS = (0, 8, 80)  # num_steps: before, during, after
LEARNING_RATE = 0.03  # small, so that the ways are smooth to look at
ALPHA = 0.1
GRID = np.linspace(-1, 1, 121)


def run(output: str, backend: str, seed: int, particles: int) -> int:
    """Write the picture to `output` and print where it went and how fast the engine is; returns 0.

    Raises:
        RuntimeError: the engine cannot run, or matplotlib is not installed.
        OSError, ValueError: the picture cannot be written, or not in the format its name asks for.
    """
    if not Path(output).absolute().parent.is_dir():
        raise ValueError(f"--output: expected a file in a folder that exists, got {output!r}")
    picture = _import_picture()
    picture.check_format(output)
    engine = resolve(backend, "cpu", "float32", None)

    rng = np.random.default_rng(seed)
    critic = landscape.fit_critics(rng)
    start = landscape.draw_reference(rng, particles)
    figure = picture.draw(
        picture.Landscape(GRID, _value(critic, _grid(), engine)),
        picture.Run(*_flow(critic, start, "rbf", engine)),
        picture.Run(*_flow(critic, start, None, engine)),
        BUDGETS,
    )
    figure.savefig(output)
    print(f"engine: {engine} ({backends()[engine]})")
    print(f"picture: {output}")
    print(f"timing: {_timing(engine)}")
    return 0


def _flow(critic: MLP, start: np.ndarray, kernel: str | None, engine: str) -> tuple[np.ndarray, np.ndarray]:
    """The particles [L+1, N, 2] at every step, and their values [L+1, N]."""
    config = FlowConfig(num_steps=BUDGETS[-1], learning_rate=LEARNING_RATE, alpha=ALPHA, kernel=kernel)
    path = vgf.flow(critic, landscape.OBS, start, config, trajectory=True, backend=engine)[:, 0]
    return path, _value(critic, path, engine)


def _value(critic: MLP, actions: np.ndarray, engine: str) -> np.ndarray:
    """The mean of the critics. actions [..., 2] -> [...]."""
    q = vgf.value(critic, landscape.OBS, actions.reshape(1, -1, 2), backend=engine)
    return q.mean(axis=0).reshape(actions.shape[:-1])


def _grid() -> np.ndarray:
    return np.stack(np.meshgrid(GRID, GRID), axis=-1).astype(np.float32)


def _timing(engine: str) -> str:
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed: no comparison"
    from . import timing

    return timing.compare(engine, _progress)


def _progress(rounds):
    """A progress bar once it takes longer than two seconds, where tqdm is installed and somebody watches."""
    if importlib.util.find_spec("tqdm") is None:
        return rounds
    from tqdm import tqdm

    return tqdm(rounds, desc="timing", unit="round", leave=False, delay=2, disable=None)


def _import_picture():
    try:
        from . import picture
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        raise RuntimeError("matplotlib is not installed: pip install 'vgf-kernels[demo]'") from None
    return picture
