"""What the documents say is so: the quick start runs, plain torch beside it computes the same, links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from vgf_kernels.cli.info import VARIABLES

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / name for name in ("README.md", "csrc/README.md", "bench/README.md", "vgf_kernels/jax/README.md")]


def test_the_quick_start_and_the_plain_torch_it_replaces():
    ours, plain = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[:2]
    torch.manual_seed(0)
    names: dict = {}
    exec(ours, names)
    target = names["target"]
    assert names["action"].shape == (1, names["A"]) and target.shape == (names["B"],)
    exec(plain, names)
    # Adam makes a full step of a gradient near zero, whichever its sign, so that single particles may part.
    off = (target - names["target"]).abs()
    assert off.median() < 1e-6 and off.quantile(0.95) < 1e-3, off.sort().values


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document):
    links = re.findall(r"\]\((?!http)([^)#]*)(?:#([^)]*))?\)", document.read_text())
    for path, section in links:
        target = document.parent / path if path else document
        assert target.exists(), path
        if section:
            titles = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            assert section in [re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles], section


def test_every_variable_is_in_the_readme():
    assert set(VARIABLES) <= set(re.findall(r"\w+_\w+", (ROOT / "README.md").read_text()))
