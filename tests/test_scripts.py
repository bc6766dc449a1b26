"""The scripts of bench/ and python/examples say what their options mean."""

from __future__ import annotations

import ast
from pathlib import Path

import processes
import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = [
    path
    for folder in ("bench", "python/examples")
    for path in sorted((ROOT / folder).glob("*.py"))
    if "ArgumentParser(" in path.read_text()
]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_option_has_help(script):
    options = [
        node
        for node in ast.walk(ast.parse(script.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument"
    ]
    assert options
    assert not [ast.unparse(o) for o in options if "help" not in {keyword.arg for keyword in o.keywords}]


def test_the_figure_of_records(tmp_path):
    pytest.importorskip("matplotlib")
    script, results, picture = str(ROOT / "bench/figure.py"), ROOT / "bench/results", tmp_path / "speed.png"
    drawn = processes.python(script, str(results / "2026-11-28-amd-epyc-zen-3-2-cores.json"), "--out", str(picture))
    assert drawn.returncode == 0, drawn.stderr
    assert picture.read_bytes().startswith(b"\x89PNG")
    # A record of something else is no empty panel.
    refused = processes.python(script, str(results / "2026-11-27-nvidia-h100.json"))
    assert refused.returncode == 2 and "expected a record with one of the cases flow-L3" in refused.stderr
