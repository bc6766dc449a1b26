"""Offline reinforcement learning with Value Gradient Flow on Pendulum-v1, start to finish.

Collects a dataset with a scripted, mediocre policy; trains a VGF agent on it; then plays with a growing
transport budget (num_steps of the flow): 0 is best-of-N, every further step moves the particles along the
critic's gradient, away from what the data shows. Writes the curves as a PNG.

    python train_offline.py                       three seeds on the fastest backend
    python train_offline.py --backend reference   the same in NumPy
    python train_offline.py --backend torch       the same in plain eager torch: what the library saves
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

os.environ["MPLBACKEND"] = "agg"  # a notebook's, which its shells inherit, may not be installed here
import numpy as np
import torch
from matplotlib.backend_bases import FigureCanvasBase
from offline.agent import PARTICLES, Agent
from offline.environment import Dataset, behaviour, collect, play
from offline.figure import draw
from offline.runs import EVALUATED_STEPS, Run
from tqdm import tqdm

from vgf_kernels.checks import ENGINES
from vgf_kernels.engines import check_available

BATCH = 256  # B
EVALUATION_SEED = 10_000  # apart from the seeds of the datasets
CHECKPOINTS = 10  # evaluations while training
CHECKPOINT_EPISODES = 16
ACTION_SAMPLE = 4096  # dataset states whose chosen actions the figure shows


def returns_of(agent: Agent, num_steps: int, episodes: int, seed: int) -> np.ndarray:
    """Returns of the agent with this transport budget. The starts and the noise depend on the seed alone."""
    return play(agent.acting(num_steps, seed), episodes, EVALUATION_SEED + seed).returns


def train(agent: Agent, dataset: Dataset, run: Run, updates: int) -> None:
    """Train the agent, writing losses, returns at checkpoints and times into the run."""
    tensors = [torch.from_numpy(a) for a in dataset]
    batches = torch.Generator().manual_seed(run.seed)
    checkpoint_every = max(1, updates // CHECKPOINTS)
    bar = tqdm(range(1, updates + 1), desc=f"seed {run.seed}", unit="update", dynamic_ncols=True)
    shown = {}
    for update in bar:
        start = time.perf_counter()
        index = torch.randint(len(dataset.rewards), (BATCH,), generator=batches)
        run.losses.append(agent.update(Dataset(*(t[index] for t in tensors))))
        run.update_seconds += time.perf_counter() - start
        if update % checkpoint_every == 0:
            run.checkpoints[update] = tuple(
                float(returns_of(agent, steps, CHECKPOINT_EPISODES, run.seed).mean())
                for steps in (0, EVALUATED_STEPS[-1])
            )
            shown["return"] = f"{run.checkpoints[update][1]:.0f}"
        if update % 50 == 0:
            shown["critic"], shown["flow"] = (f"{loss:.3f}" for loss in np.mean(run.losses[-50:], axis=0))
            bar.set_postfix(shown)
    run.target_seconds = agent.target_seconds


def run_seed(seed: int, options: argparse.Namespace) -> tuple[Run, Agent, Dataset]:
    """Collect, train and evaluate with one seed."""
    run = Run(seed)
    start = time.perf_counter()
    dataset = collect(options.dataset_size, seed)
    collected = time.perf_counter()
    agent = Agent(dataset.obs.shape[1], dataset.actions.shape[1], options.backend, seed)
    train(agent, dataset, run, options.updates)
    trained = time.perf_counter()
    run.behaviour = float(play(behaviour(seed), options.episodes, EVALUATION_SEED + seed).returns.mean())
    for steps in (0, *EVALUATED_STEPS):
        run.returns[steps] = float(returns_of(agent, steps, options.episodes, seed).mean())
    evaluated = time.perf_counter()
    run.data_actions = dataset.actions[:ACTION_SAMPLE]
    run.chosen_actions = {
        n: agent.acting(n, seed)(dataset.obs[:ACTION_SAMPLE]) for n in (0, *EVALUATED_STEPS)
    }
    run.phases = {"collect": collected - start, "train": trained - collected, "evaluate": evaluated - trained}
    return run, agent, dataset


def report(runs: list[Run], backend: str) -> None:
    """Print the returns of every seed, their mean and spread, and where the time went."""
    budgets = [0, *EVALUATED_STEPS]
    heads = ["behaviour", f"best-of-{PARTICLES}", *(f"VGF {n}" for n in EVALUATED_STEPS)]
    table = np.array([[run.behaviour, *(run.returns[n] for n in budgets)] for run in runs])
    print("\nMean return (Pendulum-v1; about -150 is as good as it gets); VGF with num_steps:")
    print(f"{'seed':>8}" + "".join(f"{head:>12}" for head in heads))
    for run, row in zip(runs, table):
        print(f"{run.seed:>8}" + "".join(f"{r:>12.0f}" for r in row))
    if len(runs) > 1:
        print(f"{'mean':>8}" + "".join(f"{r:>12.0f}" for r in table.mean(axis=0)))
        print(f"{'std':>8}" + "".join(f"{r:>12.0f}" for r in table.std(axis=0, ddof=1)))
    updates = sum(len(run.losses) for run in runs)
    target, total = (
        1e3 * sum(s) / updates for s in zip(*((r.target_seconds, r.update_seconds) for r in runs))
    )
    print(
        f"\nBackend {backend}: {total:.1f} ms an update, {target:.1f} ms ({target / total:.0%}) of it TD targets."
    )
    for run in runs:
        print(f"seed {run.seed}: " + ", ".join(f"{phase} {s:.1f} s" for phase, s in run.phases.items()))


def check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End the program where a run could not: before it has begun."""
    for name in ("dataset_size", "updates", "episodes", "threads"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')}: expected at least 1, got {getattr(options, name)}")
    for path in filter(None, (options.output, options.save_critic)):
        if not Path(path).absolute().parent.is_dir():
            parser.error(f"{path}: its folder is not there; make it first")
    formats = FigureCanvasBase.filetypes
    if Path(options.output).suffix[1:] not in formats:
        parser.error(f"--output: expected a file that ends in one of .{', .'.join(formats)}, got {options.output!r}")
    for seed in options.seeds:
        if not 0 <= seed < 2**32 - EVALUATION_SEED:
            parser.error(f"--seeds: expected numbers from 0 to {2**32 - EVALUATION_SEED - 1}, got {seed}")
    if options.backend != "torch":
        try:
            check_available(options.backend)
        except RuntimeError as reason:
            parser.error(str(reason))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="an agent for each")
    parser.add_argument(
        "--backend", choices=("auto", *ENGINES, "torch"), default="auto", help="of vgf_kernels.torch; torch: plain eager torch"
    )
    parser.add_argument("--dataset-size", type=int, default=40_000, help="transitions to collect")
    parser.add_argument("--updates", type=int, default=4_000, help="gradient steps")
    parser.add_argument("--episodes", type=int, default=64, help="episodes of each final evaluation")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument("--output", default="train_offline.png", help="where to write the figure")
    parser.add_argument("--save-critic", metavar="NPZ", help="also write the last seed's networks and states")
    options = parser.parse_args()
    check(parser, options)

    torch.set_num_threads(options.threads)
    runs = []
    for seed in options.seeds:
        run, agent, dataset = run_seed(seed, options)
        runs.append(run)
    report(runs, options.backend)
    draw(runs, options.output)
    print(f"Figure: {options.output}")
    if options.save_critic:
        agent.save(options.save_critic, dataset.obs[:ACTION_SAMPLE])


if __name__ == "__main__":
    main()
