"""A picture of records: how many times as long as this library the others take, case by case.

    python bench/figure.py RECORD.json [RECORD.json ...] --out speed.png

A record is what `pytest bench/ --benchmark-only --save-results` writes; each gets a panel. Bars are medians over the
rounds, whiskers quartiles.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

os.environ["MPLBACKEND"] = "agg"  # a notebook's, which its shells inherit, may not be installed here
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

CASES = {
    "flow-L3": "flow of 3 steps",
    "flow-L3-all-on": "the same, every unit on",
    "flow-L3-gelu": "the same, gelu",
    "sample-K10": "sample, 10 Euler steps",
    "td_target-K10-L3": "td_target, 10 and 3",
    "act-B1-K10-L3": "act, one state, 10 and 3",
}
PEERS = {
    "torch": ("eager torch", "#c9792b"),
    "torch.compile": ("torch.compile", "#e8b877"),
    "torch.compile-graphs": ("torch.compile, CUDA graphs alone", "#f3dcbc"),
    "jax": ("JAX, as the official agent", "#3b6fa0"),
    "jax-unrolled": ("JAX, critics unrolled", "#9bbcd8"),
}


def results_of(record: dict) -> dict[str, dict[str, dict]]:
    """By case and contestant, of the cases in which ours was timed."""
    cases = record.get("cases", {})
    found = {name: {key.split()[0]: one for key, one in cases[name]["results"].items()} for name in CASES if name in cases}
    return {name: results for name, results in found.items() if "vgf" in results}


def draw(axes: Axes, record: dict) -> None:
    """One record's cases from top to bottom, a bar for every peer that was timed."""
    cases = results_of(record)
    peers = [peer for peer in PEERS if any(peer in results for results in cases.values())]
    height = 0.8 / max(1, len(peers))
    for row, results in enumerate(cases.values()):
        for place, peer in enumerate(peers):
            if peer not in results:
                continue
            label, color = PEERS[peer]
            ratio, y = results[peer]["ratio"], row + (place - (len(peers) - 1) / 2) * height
            spread = [[ratio["median"] - ratio["low"]], [ratio["high"] - ratio["median"]]]
            axes.barh(y, ratio["median"], 0.9 * height, color=color, label=label)
            axes.errorbar(ratio["median"], y, xerr=spread, color="0.25", linewidth=1)
            label_at = {"xytext": (4, 0), "textcoords": "offset points", "va": "center", "fontsize": 8}
            axes.annotate(f"{ratio['median']:.1f}", (ratio["high"], y), **label_at)
    axes.axvline(1, color="0.25", linewidth=1)
    axes.set_yticks(np.arange(len(cases)), [f"{CASES[name]}\n{_milliseconds(results)}" for name, results in cases.items()])
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    precision, machine = record["precision"], record["machine"]
    others = ", JAX in fp32" if precision != "fp32" and record["device"] == "cpu" else ""
    title = f"vgf-kernels {precision} = 1{others}\n{machine['cpu']}, {machine['usable_cores']} cores"
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("times as long")


def _milliseconds(results: dict) -> str:
    return f"({1e3 * results['vgf']['median_s']:.3g} ms)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("records", type=Path, nargs="+", help="results/*.json")
    parser.add_argument("--out", type=Path, default=Path("speed.png"), help="where to, speed.png unless told")
    arguments = parser.parse_args()
    figure = Figure(figsize=(5.5 * len(arguments.records), 5.2), layout="constrained")
    panels = figure.subplots(1, len(arguments.records), squeeze=False)[0]
    for axes, path in zip(panels, arguments.records):
        record = json.loads(path.read_text())
        if not results_of(record):
            parser.error(f"{path}: expected a record with one of the cases {', '.join(CASES)}, in which vgf was timed")
        draw(axes, record)
    handles, labels = panels[-1].get_legend_handles_labels()
    once = dict(zip(labels, handles))
    panels[-1].legend(once.values(), once, loc="best", fontsize=8, frameon=False)
    figure.savefig(arguments.out, dpi=110)
    print(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
