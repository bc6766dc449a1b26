"""The demo's figure: particles on the value landscape at three transport budgets, with and without kernel."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

os.environ["MPLBACKEND"] = "agg"  # a notebook's, which its shells inherit, may not be installed here
import matplotlib
import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

# Okabe-Ito colours (safe for colour-blind readers), on a sequential blue landscape.
ORANGE, YELLOW, INK, CREAM = "#D55E00", "#F0E442", "#222222", "#FFF3DC"


@dataclass(frozen=True)
class Run:
    """One flow, every step kept. path [L+1, N, 2], value [L+1, N]."""

    path: np.ndarray
    value: np.ndarray


@dataclass(frozen=True)
class Landscape:
    """The critic's value on a square grid: axis [G], value [G, G] (row = second action)."""

    axis: np.ndarray
    value: np.ndarray


def check_format(output: str) -> None:
    """Raise ValueError for a file whose name ends in no format that matplotlib writes."""
    known = Figure().canvas.get_supported_filetypes()
    if Path(output).suffix[1:].lower() not in known:
        raise ValueError(f"--output: expected a name that ends in .{', .'.join(sorted(known))}, got {output!r}")


def nearest_distance(particles: np.ndarray) -> float:
    """Mean distance of a particle to its nearest neighbour. particles [N, 2], N >= 2."""
    distance = np.linalg.norm(particles[:, None] - particles[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    return float(distance.min(axis=1).mean())


def draw(landscape: Landscape, with_kernel: Run, without: Run, budgets: tuple[int, int, int]) -> Figure:
    """The whole figure. budgets are three values of num_steps: 0, small, large."""
    before, small, large = budgets
    with matplotlib.rc_context({"font.size": 11, "axes.titlesize": 13, "axes.titleweight": "bold"}):
        figure = Figure(figsize=(15.6, 8.7), dpi=110, layout=ConstrainedLayoutEngine(h_pad=0.12, w_pad=0.08))
        figure.suptitle(
            "Value Gradient Flow: actions drawn from a reference policy climb the critic's value",
            fontsize=17, fontweight="bold",
        )  # fmt: skip
        axes = figure.subplot_mosaic(
            [["before", "rbf small", "rbf large", "value"], ["key", "none small", "none large", "spread"]]
        )
        image = _panel(axes["before"], landscape, with_kernel, before, "Before: reference policy")
        _panel(axes["rbf small"], landscape, with_kernel, small, "During: small budget")
        _panel(axes["rbf large"], landscape, with_kernel, large, "After: large budget")
        _panel(axes["none small"], landscape, without, small, "During, no kernel")
        _panel(axes["none large"], landscape, without, large, "After, no kernel")
        _key(axes["key"], image)
        runs = (("RBF kernel", with_kernel, ORANGE), ("no kernel", without, INK))
        _value_chart(axes["value"], runs, budgets)
        _spread_chart(axes["spread"], runs, budgets)
    return figure


def _titles(ax, title: str, subtitle: str) -> None:
    ax.set_title(title, pad=24)
    ax.text(0.5, 1.025, subtitle, transform=ax.transAxes, ha="center", va="bottom", fontsize=10.5)


def _panel(ax, landscape: Landscape, run: Run, step: int, title: str):
    """Particles after `step` steps, and the way they came."""
    shade = np.maximum(landscape.value, 0)
    levels = np.linspace(0, max(1.0, shade.max()), 21)
    image = ax.contourf(landscape.axis, landscape.axis, shade, levels, cmap="Blues")
    ax.contour(landscape.axis, landscape.axis, shade, levels[2::3], colors=INK, linewidths=0.4, alpha=0.35)
    fade = 0.7 if step <= 10 else 0.35
    ways = run.path[: step + 1].transpose(1, 0, 2)
    ax.add_collection(LineCollection(list(ways), colors=ORANGE, linewidths=0.9, alpha=fade, zorder=2))
    q, best = run.value[step], run.value[step].argmax()
    ax.scatter(*run.path[step].T, s=32, color=CREAM, edgecolor=ORANGE, linewidth=1.4, zorder=3)
    ax.scatter(*run.path[step][best], s=270, marker="*", color=YELLOW, edgecolor=INK, linewidth=1.1, zorder=4)
    ax.set(xlim=(-1, 1), ylim=(-1, 1), xticks=(-1, 0, 1), yticks=(-1, 0, 1), aspect="equal")
    _titles(ax, title, f"num_steps {step}:  mean {q.mean():.2f},  selected {q[best]:.2f}")
    return image


def _key(ax, image) -> None:
    """What the marks mean, and the colour bar."""
    ax.axis("off")
    handles = {
        "particle: a candidate action": _mark("o", 7, CREAM, ORANGE, 1.4),
        "its way from the reference": Line2D([], [], color=ORANGE, linewidth=1.5),
        "selected: the highest value": _mark("*", 16, YELLOW, INK, 1),
    }
    ax.legend(handles.values(), handles.keys(), loc="upper left", bbox_to_anchor=(-0.07, 1.12), frameon=False)
    text = (
        "num_steps is the transport budget:\n0 picks the best reference action,\n"
        "more steps climb further from it.\n\n"
        "The RBF kernel (top row) keeps the\nparticles apart; without it (bottom\n"
        "row) they collapse onto the peaks.\nalpha sets the price in value."
    )
    ax.text(0, 0.8, text, va="top", transform=ax.transAxes, linespacing=1.4)
    bar = ax.figure.colorbar(image, cax=ax.inset_axes([0, 0.0, 1, 0.05]), orientation="horizontal")
    bar.set_ticks([0, 0.5, 1])
    bar.ax.set_title("value q of an action", fontsize=11, fontweight="normal", loc="left")


def _mark(marker, size: float, face: str, edge: str, width: float) -> Line2D:
    mark = Line2D([], [], linestyle="", marker=marker, markersize=size, color=face)
    mark.set(markeredgecolor=edge, markeredgewidth=width)
    return mark


def _value_chart(ax, runs, budgets) -> None:
    for name, run, colour in runs:
        ax.plot(run.value.mean(axis=1), color=colour, linewidth=2, label=name)
        ax.plot(run.value.max(axis=1), color=colour, linestyle=":", linewidth=2)
    ax.set(ylabel="value q")
    _titles(ax, "More budget, more value", "solid: mean,  dotted: selected")
    _finish_chart(ax, budgets, "lower right")


def _spread_chart(ax, runs, budgets) -> None:
    for name, run, colour in runs:
        ax.plot([nearest_distance(x) for x in run.path], color=colour, linewidth=2, label=name)
    ax.set(ylabel="distance in action space")
    _titles(ax, "The kernel keeps the spread", "mean distance to the nearest particle")
    _finish_chart(ax, budgets, "center right")


def _finish_chart(ax, budgets, legend: str) -> None:
    ax.set(xlabel="num_steps", xticks=budgets, xlim=(0, budgets[-1]), ylim=(0, 1.15 * ax.get_ylim()[1]))
    ax.set_box_aspect(1)
    ax.grid(alpha=0.3)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(loc=legend, fontsize=10)
