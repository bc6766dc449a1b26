"""The flax agent of python/examples with and without this library: an update, an action, and what packing costs.

    python bench/jax_agent.py [--euler-steps 10 --flow-steps 3] [--amortized] [--rounds 12] [--save-results]

Every contestant lives in a process of its own and they take turns, as in the other benchmarks. Before anything is
timed, each trains the same parameters on the same data and must end where plain JAX ends.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

import numpy as np
from alternate import PAUSE, ratios
from cases import ACTIONS, OBS
from machine import describe_machine, slug
from report import RESULTS

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the contestants' processes share a GPU

EXAMPLES = Path(__file__).parents[1] / "python" / "examples"
BATCH, UPDATES = 256, 3  # states of an update; updates before the parameters are compared
APART = {"fp32": 1e-3, "bf16": 0.1}  # of the way the parameters moved: Adam makes steps of round-off
CALLS = {"update": 3, "action": 50, "action, packing": 50, "pack": 5}  # timed in one turn


@dataclass(frozen=True)
class Contestant:
    implementation: str  # a module of flax_agent
    precision: str

    def __str__(self) -> str:
        return self.implementation if self.precision == "fp32" else f"{self.implementation} {self.precision}"


CONTESTANTS = [Contestant("plain", "fp32"), Contestant("fused", "fp32"), Contestant("fused", "bf16")]


def serve(pipe, contestant: Contestant, options: dict) -> None:
    """A contestant's process: sends the parameters it trains, then answers row names with seconds per call."""
    sys.path.insert(0, str(EXAMPLES))
    import flax_agent.fused
    import flax_agent.plain
    import jax
    from flax_agent.learner import Batch, Settings, create, update

    jax.config.update("jax_default_matmul_precision", "float32")  # of plain JAX: on a GPU it would take TF32
    implementation = getattr(flax_agent, contestant.implementation)
    defaults = Settings()
    settings = replace(
        defaults,
        euler_steps=options["euler_steps"],
        config=replace(defaults.config, num_steps=options["flow_steps"]),
        amortized=options["amortized"],
        precision=contestant.precision,
    )
    rng = np.random.default_rng(0)
    obs, next_obs = rng.standard_normal((2, BATCH, OBS), np.float32)
    actions = np.tanh(rng.standard_normal((BATCH, ACTIONS), np.float32))
    batch = jax.device_put(
        Batch(obs, actions, rng.standard_normal(BATCH, np.float32), np.ones(BATCH, np.float32), next_obs)
    )
    noise = jax.device_put(rng.standard_normal((1, settings.particles, ACTIONS), np.float32))
    step = jax.jit(partial(update, settings=settings, implementation=implementation))
    act = jax.jit(partial(implementation.act, settings=settings))
    start = state = create(jax.random.PRNGKey(0), OBS, ACTIONS, settings)
    for _ in range(UPDATES):
        state, _ = step(state, batch)
    pipe.send([np.concatenate([np.ravel(a) for a in jax.tree.leaves(s.params)]) for s in (start, state)])

    rows = {
        "update": lambda: step(state, batch),
        "action": lambda: act(state.params, obs=obs[:1], noise=noise),
    }
    if contestant.implementation == "fused":
        pack = jax.jit(partial(flax_agent.fused.pack, settings=settings))
        packed = pack(state.params)
        rows["pack"] = lambda: pack(state.params)
        rows["action, packing"] = rows["action"]
        rows["action"] = lambda: act(packed, obs=obs[:1], noise=noise)
    pipe.send(list(rows))
    while (row := pipe.recv()) is not None:
        jax.block_until_ready(rows[row]())  # not timed
        seconds = []
        for _ in range(CALLS[row]):
            begin = time.perf_counter()
            jax.block_until_ready(rows[row]())
            seconds.append(time.perf_counter() - begin)
        pipe.send(statistics.median(seconds))


def measure(options: dict, rounds: int) -> Iterator[tuple[str, dict[Contestant, list[float]]]]:
    """Every row as soon as it is measured: seconds by contestant, one for each round."""
    context = multiprocessing.get_context("spawn")
    pipes = {}
    for contestant in CONTESTANTS:
        pipes[contestant], theirs = context.Pipe()
        context.Process(target=serve, args=(theirs, contestant, options), daemon=True).start()
        theirs.close()  # so that recv ends where the process does
    check({contestant: pipe.recv() for contestant, pipe in pipes.items()})
    offered = {contestant: pipe.recv() for contestant, pipe in pipes.items()}
    for row in CALLS:
        times: dict[Contestant, list[float]] = {contestant: [] for contestant, rows in offered.items() if row in rows}
        for _ in range(rounds):
            for contestant, seconds in times.items():
                time.sleep(PAUSE)
                pipes[contestant].send(row)
                seconds.append(pipes[contestant].recv())
        yield row, times
    for pipe in pipes.values():
        pipe.send(None)


def check(trained: dict[Contestant, list[np.ndarray]]) -> None:
    """Raise AssertionError unless all end where plain JAX ends."""
    start, end = trained[CONTESTANTS[0]]
    moved = np.linalg.norm(end - start)
    for contestant, (_, other) in trained.items():
        apart = np.linalg.norm(other - end) / moved
        assert apart <= APART[contestant.precision], f"{contestant}: {apart:.1e} of the way from plain JAX"


def lines(row: str, times: dict[str, dict[Contestant, list[float]]]) -> Iterator[str]:
    """Of a row: median milliseconds, and how many times as long plain JAX takes, with quartiles."""
    plain = times[row.partition(",")[0]].get(CONTESTANTS[0])
    for contestant, seconds in times[row].items():
        line = f"{row:<16} {contestant!s:<12} {1e3 * statistics.median(seconds):8.2f} ms"
        if plain and plain is not seconds:
            ratio = ratios(seconds, plain)
            line += f"   plain takes {ratio['median']:.2f}x [{ratio['low']:.2f} {ratio['high']:.2f}]"
        yield line


def save(folder: Path, options: dict, times: dict[str, dict[Contestant, list[float]]]) -> Path:
    import jax

    import vgf_kernels

    machine = describe_machine()
    now = datetime.now(timezone.utc)
    record = {
        "when": now.isoformat(timespec="seconds"),
        "options": options,
        "machine": machine,
        "jax": jax.__version__,
        "vgf_kernels": vgf_kernels.__version__,
        "engine": str(vgf_kernels.backends()["cuda" if jax.default_backend() == "gpu" else "cpu"]),
        "contestants": {str(c): asdict(c) for c in CONTESTANTS},
        "seconds": {row: {str(c): seconds for c, seconds in by.items()} for row, by in times.items()},
    }
    steps = (
        f"k{options['euler_steps']}-l{options['flow_steps']}{'-amortized' if options['amortized'] else ''}"
    )
    name = slug(f"{machine['cpu']} {machine['usable_cores']} cores")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{now:%Y-%m-%d}-{name}-jax-agent-{steps}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--euler-steps", type=int, default=5, help="K of the behaviour policy")
    parser.add_argument("--flow-steps", type=int, default=1, help="L of the flow")
    parser.add_argument("--amortized", action="store_true", help="along a learned score")
    parser.add_argument("--rounds", type=int, default=12, help="turns of every contestant")
    parser.add_argument(
        "--save-results", nargs="?", type=Path, const=RESULTS, metavar="FOLDER",
        help="write <date>-<machine>-...json there, without FOLDER in bench/results",
    )  # fmt: skip
    arguments = vars(parser.parse_args())
    if absent := [name for name in ("jax", "flax", "optax") if importlib.util.find_spec(name) is None]:
        parser.error(f"the agents need {' and '.join(absent)}; pip install {' '.join(absent)}")
    if arguments["rounds"] < 1:
        parser.error(f"--rounds: expected 1 or more, got {arguments['rounds']}")
    rounds, folder = arguments.pop("rounds"), arguments.pop("save_results")
    times = {}
    for row, measured in measure(arguments, rounds):
        times[row] = measured
        print(*lines(row, times), sep="\n", flush=True)
        if folder:  # of what is there, should the rest not come
            path = save(folder, arguments, times)
    if folder:
        print("written:", path)


if __name__ == "__main__":
    main()
