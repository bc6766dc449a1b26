"""The scripts of bench/ and python/examples say what their options mean."""

from __future__ import annotations

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
REPORT = """
import argparse, runpy, sys

def report(parser, arguments=None):
    parser.format_help()
    print("options without help:", [action.dest for action in parser._actions if not action.help])
    sys.exit()

argparse.ArgumentParser.parse_args = report
sys.path.insert(0, sys.argv[1].rpartition("/")[0])
runpy.run_path(sys.argv.pop(1), run_name="__main__")
"""


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_option_has_help(script):
    for package in ("torch", "jax", "tqdm", "matplotlib"):
        pytest.importorskip(package)
    done = processes.python("-c", REPORT, str(script))
    assert done.returncode == 0, done.stderr
    assert done.stdout == "options without help: []\n"
