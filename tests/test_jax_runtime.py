"""What happens where XLA does not take the handlers: one clear error, and JAX as it was."""

from __future__ import annotations

import processes
import pytest

PREAMBLE = """
import sys
import jax, jax.numpy as jnp
from problems import make_problem
p = make_problem()

def value(**keywords):
    import vgf_kernels.jax as vgf
    return vgf.value(p.critic, p.obs, p.particles, **keywords)

def failure():
    try:
        value(backend="cpu")
    except RuntimeError as error:
        return str(error)

def jax_works():
    return jax.jit(lambda x: x + 1)(jnp.ones(3)).tolist() == [2, 2, 2]
"""


def run(code: str) -> list[str]:
    return processes.run(PREAMBLE + code).splitlines()


def test_without_the_compiled_module():
    message, works, shape = run("""
sys.modules["vgf_kernels._xla"] = None
print(failure())
print(jax_works())
print(value(backend="reference").shape)
""")
    assert message.startswith("the compiled module vgf_kernels._xla cannot be imported (")
    assert message.endswith('pass backend="reference"')
    assert (works, shape) == ("True", "(2, 3, 7)")


def test_a_runtime_that_refuses_the_handlers():
    first, again, works, shape = run("""
import jax.ffi
def refuse(*args, **keywords):
    raise RuntimeError("FFI handler has a newer API version")
jax.ffi.register_ffi_target = refuse
print(failure())
print(failure())
print(jax_works())
print(value(backend="reference").shape)
""")
    assert "does not take handlers of XLA FFI API" in first
    assert "(FFI handler has a newer API version)" in first
    assert again == first
    assert (works, shape) == ("True", "(2, 3, 7)")


def test_nothing_is_registered_before_the_first_call():
    before, after = run("""
import jax.ffi
names = []
take = jax.ffi.register_ffi_target
jax.ffi.register_ffi_target = lambda name, *a, **k: (names.append(name), take(name, *a, **k))
import vgf_kernels.jax
print(len(names))
value(); value()
print(len(names) == len(set(names)) > 0)
""")
    assert (before, after) == ("0", "True")


def test_an_exported_program_in_another_process(tmp_path):
    pytest.importorskip("flatbuffers")  # by which JAX writes it
    path = str(tmp_path / "flow")
    code = f"""
from jax import export
import vgf_kernels.jax as vgf
import numpy as np
def flow(obs, x):
    return vgf.flow(p.critic, obs, x, vgf.FlowConfig(num_steps=2))
"""
    write = f"""
kept = [export.DisabledSafetyCheck.custom_call("vgf_flow")]
exported = export.export(jax.jit(flow), disabled_checks=kept)(p.obs, p.particles)
open({path!r}, "wb").write(exported.serialize())
"""
    read = f"""
vgf.register()
exported = export.deserialize(bytearray(open({path!r}, "rb").read()))
print(np.array_equal(exported.call(p.obs, p.particles), flow(p.obs, p.particles)))
"""
    assert run(code + write) == []
    assert run(code + read) == ["True"]


def test_a_jax_without_ffi():
    (message,) = run("""
sys.modules["jax.ffi"] = None
try:
    import vgf_kernels.jax
except ImportError as error:
    print(error)
""")
    assert message == f"vgf_kernels.jax needs JAX 0.5 or newer (jax.ffi), found {jax_version()}"


def jax_version() -> str:
    import jax

    return jax.__version__
