"""Importing the package imports no framework, and the NumPy frontend needs none."""

from __future__ import annotations

import processes
import pytest

FRAMEWORKS = ("torch", "jax", "triton", "flax", "matplotlib")


@pytest.mark.parametrize(
    "module", ["vgf_kernels", "vgf_kernels.numpy", "vgf_kernels.reference", "vgf_kernels.cli"]
)
def test_no_framework_is_imported(module):
    loaded = processes.run(f"import sys, {module}; print(*[m for m in {FRAMEWORKS} if m in sys.modules])")
    assert loaded.split() == []


def test_the_torch_frontend_imports_no_other():
    loaded = processes.run(
        "import sys, vgf_kernels.torch; print(*[m for m in ('jax', 'flax') if m in sys.modules])"
    )
    assert loaded.split() == []


def test_numpy_is_enough():
    """With every optional package out of reach, everything but its frontend works."""
    code = """
import sys
for name in ("torch", "jax", "triton", "flax", "matplotlib", "nvtx", "tqdm"):
    sys.modules[name] = None
import vgf_kernels, vgf_kernels.numpy as vgf
from problems import make_problem
p = make_problem()
for backend in ("cpu", "reference"):
    vgf.act(p.critic, p.policy, p.obs, p.noise, 3, vgf.FlowConfig(), backend=backend)
vgf.MLP.from_flax(p.critic.to_flax())
print(p.critic.freeze())
"""
    assert processes.run(code).startswith("MLP(2 x [8 -> 33 -> 17 -> 1]")


def test_the_reference_needs_no_compiled_module():
    code = """
import sys
sys.modules["vgf_kernels._native"] = None
import vgf_kernels, vgf_kernels.numpy as vgf
from problems import make_problem
p = make_problem()
vgf.value(p.critic, p.obs, p.particles, backend="reference")
print(vgf_kernels.backends()["cpu"])
try:
    vgf.value(p.critic, p.obs, p.particles, backend="cpu")
except RuntimeError as error:
    print(error)
"""
    absent, refused = processes.run(code).splitlines()
    assert absent.startswith("unavailable: the compiled module vgf_kernels._native cannot be imported")
    assert refused.startswith("backend 'cpu' is unavailable: the compiled module vgf_kernels._native")


@pytest.mark.parametrize("frontend", ["numpy", "torch"])
def test_the_reference_is_not_taken_in_silence(frontend):
    """Without the compiled module "auto" can take nothing else; it says so once, and not where it was asked for."""
    code = f"""
import sys
sys.modules["vgf_kernels._native"] = None
from engines import Engine
from problems import make_problem
p = make_problem()
print("asked for", file=sys.stderr)
Engine("{frontend}", "reference").value(p.critic, p.obs, p.particles)
print("by default", file=sys.stderr)
for _ in range(2):
    q = Engine("{frontend}", "auto").value(p.critic, p.obs, p.particles)
"""
    done = processes.python("-c", code, VGF_BACKEND="")
    assert done.returncode == 0, done.stderr
    asked_for, by_default = done.stderr.split("by default")
    assert "RuntimeWarning" not in asked_for
    assert by_default.count("RuntimeWarning: backend \"auto\" takes the reference, which is slow") == 1
    assert "vgf_kernels._native cannot be imported from" in by_default


def test_jax_has_no_reference_by_default():
    code = """
import sys
sys.modules["vgf_kernels._xla"] = None
import vgf_kernels.jax as vgf
from problems import make_problem
p = make_problem()
try:
    vgf.value(p.critic, p.obs, p.particles)
except RuntimeError as error:
    print(error)
"""
    refused = processes.run(code, VGF_BACKEND="", JAX_PLATFORMS="cpu")
    assert "the compiled module vgf_kernels._xla cannot be imported" in refused
    assert 'backend="reference"' in refused


def test_the_package_is_typed():
    folder = processes.PACKAGE / "vgf_kernels"
    assert (folder / "py.typed").exists()
    assert (folder / "_native.pyi").exists()
