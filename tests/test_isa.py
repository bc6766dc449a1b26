"""The instruction set is chosen at run time and can be forced: the forced one runs, or the call fails."""

from __future__ import annotations

import processes
import pytest

import vgf_kernels
from vgf_kernels import _native

REPORT = """
import vgf_kernels
from vgf_kernels import _native
print(_native.isa(), vgf_kernels.backends()["cpu"])
"""
SUITES = ("test_cpu_golden.py", "test_accuracy.py", "test_bf16.py", "test_shapes.py", "test_independence.py")
CALL = """
import vgf_kernels, vgf_kernels.numpy
from problems import make_problem
cpu = vgf_kernels.backends()["cpu"]
assert not cpu.available
print(cpu.detail)
p = make_problem()
for backend in ("cpu", "auto"):
    try:
        vgf_kernels.numpy.value(p.critic, p.obs, p.particles, backend=backend)
    except RuntimeError as error:
        print(error)
vgf_kernels.numpy.value(p.critic, p.obs, p.particles, backend="reference")
"""


def test_the_fastest_is_the_default():
    names = _native.supported_isas()
    assert names[-1] == "scalar"
    assert processes.run(REPORT, VGF_CPU_ISA="").split() == [names[0], names[0]]


def test_backends_names_the_one_in_use():
    assert str(vgf_kernels.backends()["cpu"]) == _native.isa()


@pytest.mark.parametrize("isa", _native.supported_isas())
def test_the_forced_one_runs(isa):
    assert processes.run(REPORT, VGF_CPU_ISA=isa).split() == [isa, isa]


@pytest.mark.parametrize("isa", [name for name in _native.supported_isas() if name != _native.isa()])
def test_the_others_are_correct(isa):
    """The golden files, every kind of network and awkward sizes. The set in use has the whole suite."""
    done = processes.python(
        "-m", "pytest", "-k", "not torch and not jax and not reference", *SUITES, VGF_CPU_ISA=isa
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert f"cpu: {isa};" in done.stdout  # the header that conftest.py prints


@pytest.mark.parametrize("name", ["sse9", "AVX2", "avx2 "])
def test_a_bogus_name_fails(name):
    names = ", ".join(_native.supported_isas())
    messages = processes.run(CALL, VGF_CPU_ISA=name).splitlines()
    assert len(messages) == 3  # in the list of backends, by name and by "auto", which does not go elsewhere
    for message in messages:
        assert (
            f'VGF_CPU_ISA: expected one of {names} (what this machine runs), got "{name}"; unset it'
            in message
        )
