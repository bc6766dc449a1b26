"""Why the Triton engine cannot run here, when it cannot."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace

import pytest
import torch

import vgf_kernels
import vgf_kernels.triton as engine

triton = pytest.importorskip("triton")


@pytest.mark.parametrize("package", ["torch", "triton"])
def test_a_package_is_not_installed(monkeypatch, package):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find(name))
    assert engine.missing() == f"package {package} is not installed; pip install 'vgf-kernels[triton]'"


def test_no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert engine.missing() == "torch finds no GPU"
    assert str(vgf_kernels.backends()["triton"]) == "unavailable: torch finds no GPU"


@pytest.mark.parametrize(
    ("version", "capability", "reason"),
    [
        ("3.3.1", (9, 0), "Triton 3.3.1 is installed, 3.4 or newer is needed; pip install 'triton>=3.4'"),
        ("3.4.0", (7, 5), "Tesla T4 is older than compute capability 8.0"),
        ("3.4.0", (8, 0), None),
        ("3.10.0+git", (10, 0), None),
    ],
)
def test_versions_and_gpus(monkeypatch, version, capability, reason):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "Tesla T4")
    monkeypatch.setattr(triton, "__version__", version)
    assert engine.missing() == reason


def test_arrays_on_a_gpu_that_is_too_old(monkeypatch):
    """Another one of the machine may be new enough."""
    from vgf_kernels.triton.engine import _gpu

    old = SimpleNamespace(name="Tesla T4", multi_processor_count=40, major=7, minor=5)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: old)
    with pytest.raises(ValueError, match="compute capability 8.0 or newer, got cuda:1, Tesla T4"):
        _gpu(torch.device("cuda", 1))
