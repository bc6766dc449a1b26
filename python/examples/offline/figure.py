"""The figure: what the transport budget buys, how training went, and where the actions go."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np

from .agent import PARTICLES
from .runs import Run

GREY, BLUE, ORANGE, GREEN = "#666666", "#0072b2", "#e69f00", "#009e73"


def draw(runs: list[Run], path: str) -> None:
    """Draw the four panels of all seeds and write them to path."""
    style = {
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlelocation": "left",
        "font.size": 10,
    }
    with plt.rc_context(style):
        figure, axes = plt.subplots(2, 2, figsize=(11, 7.6), layout="constrained")
        draw_budget(axes[0, 0], runs)
        draw_actions(axes[0, 1], runs[0])
        draw_returns(axes[1, 0], runs)
        draw_losses(axes[1, 1], runs)
        seeds = f"{len(runs)} seeds, mean and range" if len(runs) > 1 else f"seed {runs[0].seed}"
        figure.suptitle(f"Value Gradient Flow on Pendulum-v1, offline data from a mediocre policy ({seeds})")
        figure.savefig(path, dpi=130)
        plt.close(figure)


def draw_band(axis, x, values: np.ndarray, color: str, label: str, marker: str | None = None) -> None:
    """The mean over seeds and the range between the worst and the best. values [seeds, len(x)]."""
    axis.plot(x, values.mean(axis=0), color=color, marker=marker, label=label, lw=2)
    axis.fill_between(x, values.min(axis=0), values.max(axis=0), color=color, alpha=0.15, lw=0)


def draw_budget(axis, runs: list[Run]) -> None:
    """Return against the number of flow steps, with the behaviour policy and best-of-N as levels."""
    steps = sorted(runs[0].returns)
    returns = np.array([[run.returns[n] for n in steps] for run in runs])
    behaviour = np.mean([run.behaviour for run in runs])
    draw_band(axis, steps, returns, BLUE, "VGF", marker="o")
    for level, color, name in (
        (behaviour, GREY, "behaviour policy"),
        (returns[:, 0].mean(), ORANGE, f"best of {PARTICLES}, no flow"),
    ):
        axis.axhline(level, color=color, ls="--", lw=1.5)
        axis.annotate(f"{name}: {level:.0f}", (steps[-1], level), (0, -4), textcoords="offset points",
                      color=color, ha="right", va="top")  # fmt: skip
    best = int(returns.mean(axis=0).argmax())
    axis.annotate(f"VGF: {returns[:, best].mean():.0f}", (steps[best], returns[:, best].mean()), (0, 6),
                  textcoords="offset points", color=BLUE, ha="right", va="bottom")  # fmt: skip
    axis.set_ylim(min(behaviour, returns.min()) - 120, 0)
    axis.set(
        title="The transport budget at work",
        xlabel="flow steps at test time (num_steps)",
        ylabel="mean return",
    )


def draw_actions(axis, run: Run) -> None:
    """How the actions on the same states spread: in the data, and chosen with growing budgets."""
    bins = np.linspace(-1, 1, 41)
    budgets = sorted(run.chosen_actions)
    axis.hist(run.data_actions.ravel(), bins, density=True, color=GREY, alpha=0.35, label="data")
    shown = (budgets[0], budgets[3], budgets[-1])
    for steps, color in zip(shown, (ORANGE, GREEN, BLUE)):
        label = f"VGF, {steps} steps" if steps else f"best of {PARTICLES}"
        axis.hist(
            run.chosen_actions[steps].ravel(),
            bins,
            density=True,
            histtype="step",
            color=color,
            lw=2,
            label=label,
        )
    axis.legend(frameon=False)
    axis.set(
        title="Actions on the dataset's states", xlabel="torque, as a share of the largest", ylabel="density"
    )


def draw_returns(axis, runs: list[Run]) -> None:
    """Return at the checkpoints of training, best-of-N and with the full budget."""
    updates = sorted(runs[0].checkpoints)
    returns = np.array([[run.checkpoints[u] for u in updates] for run in runs])
    draw_band(axis, updates, returns[..., 0], ORANGE, f"best of {PARTICLES}")
    draw_band(axis, updates, returns[..., 1], BLUE, f"VGF, {max(runs[0].returns)} steps")
    axis.axhline(
        np.mean([run.behaviour for run in runs]), color=GREY, ls="--", lw=1.5, label="behaviour policy"
    )
    axis.legend(frameon=False, loc="lower right")
    axis.set(title="While training", xlabel="update", ylabel="mean return")
    axis.set_ylim(top=0)


def draw_losses(axis, runs: list[Run]) -> None:
    """Both losses, smoothed, on a logarithmic scale."""
    losses = np.array([run.losses for run in runs])
    window = max(1, losses.shape[1] // 100)
    count = losses.shape[1] // window
    smooth = losses[:, : count * window].reshape(len(runs), count, window, 2).mean(axis=2)
    updates = window * np.arange(1, count + 1)
    draw_band(axis, updates, smooth[..., 0], BLUE, "critics: squared TD error")
    draw_band(axis, updates, smooth[..., 1], GREEN, "velocity field: flow matching")
    axis.set_yscale("log")
    axis.legend(frameon=False)
    axis.set(title="Losses", xlabel="update", ylabel="loss")
