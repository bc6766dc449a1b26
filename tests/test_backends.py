"""Which engines there are, and who chooses."""

from __future__ import annotations

import numpy as np
import pytest
from engines import Engine
from problems import make_problem

import vgf_kernels
import vgf_kernels.numpy as vgf
from vgf_kernels import FlowConfig, engines

PROBLEM = make_problem()
DOUBLE = PROBLEM.at(np.float64)  # what only the reference computes


def value(p, **kwargs):
    return vgf.value(p.critic, p.obs, p.particles, **kwargs)


def test_every_engine_is_listed_with_its_state():
    backends = vgf_kernels.backends()
    assert list(backends) == ["cuda", "triton", "cpu", "reference"]
    assert backends["cpu"].available and backends["reference"].available
    for name, backend in backends.items():
        assert backend.name == name and backend.detail
        assert str(backend).startswith("unavailable: ") != backend.available


def test_auto_takes_the_cpu_engine():
    assert value(PROBLEM).dtype == np.float32
    np.testing.assert_array_equal(value(PROBLEM), value(PROBLEM, backend="cpu"))
    with pytest.raises(TypeError, match="the cpu engine computes float32"):
        value(DOUBLE)


def test_the_reference_computes_any_float_dtype():
    assert value(DOUBLE, backend="reference").dtype == np.float64
    assert value(PROBLEM.at(np.float16), backend="reference").dtype == np.float16


def test_results_of_the_reference_are_of_the_arrays_dtype():
    """Whatever that of the weights is."""
    arrays = PROBLEM.critic, PROBLEM.obs.astype(np.float16), PROBLEM.particles.astype(np.float16)
    q, (_, dq) = (f(*arrays, backend="reference") for f in (vgf.value, vgf.value_and_grad))
    assert q.dtype == dq.dtype == np.float16


@pytest.mark.parametrize("frontend", ["numpy", "torch", "jax"])
def test_adam_in_float16(frontend):
    """Which has neither its 1e-8 nor the square of a small gradient."""
    engine, config = Engine(frontend, "reference"), FlowConfig(num_steps=3, learning_rate=0.1, kernel=None, clip=None)
    x = engine.array(PROBLEM.particles.astype(np.float16))

    def moved(slope):
        return np.asarray(engine.module.transport(lambda x: slope * (0 * x + 1), x, config, backend="reference"))

    assert moved(0.0).dtype == np.float16
    np.testing.assert_array_equal(moved(0.0), np.asarray(x))
    np.testing.assert_allclose(moved(1e-3), PROBLEM.particles + 0.3, atol=3e-3)  # a whole step each, however small


def test_the_environment_decides_where_the_call_does_not(monkeypatch):
    monkeypatch.setenv("VGF_BACKEND", "reference")
    assert value(DOUBLE).dtype == np.float64
    with pytest.raises(TypeError, match="the cpu engine computes float32"):
        value(DOUBLE, backend="cpu")


@pytest.mark.parametrize("name", ["cuda", "triton"])
def test_an_engine_that_is_not_there_does_not_fall_back(name, monkeypatch):
    if vgf_kernels.backends()[name].available:
        pytest.skip(f"{name} is there")
    with pytest.raises(RuntimeError, match=f"backend '{name}' is unavailable: .+; use"):
        value(PROBLEM, backend=name)
    monkeypatch.setenv("VGF_BACKEND", name)
    with pytest.raises(RuntimeError, match=f"backend '{name}' is unavailable: .+; use"):
        value(PROBLEM)


def test_an_empty_name_in_the_environment_is_none(monkeypatch):
    monkeypatch.setenv("VGF_BACKEND", "")
    np.testing.assert_array_equal(value(PROBLEM), value(PROBLEM, backend="cpu"))


def test_an_unknown_name_in_the_environment(monkeypatch):
    monkeypatch.setenv("VGF_BACKEND", "gpu")
    with pytest.raises(ValueError, match="VGF_BACKEND: expected one of auto, .*, got 'gpu'; "):
        value(PROBLEM)


@pytest.mark.parametrize("frontend", ["numpy", "torch", "jax"])
def test_select_obeys_the_environment(frontend, monkeypatch):
    engine = Engine(frontend, "auto")
    q = engine.array(np.eye(3, dtype=np.float32))
    np.testing.assert_array_equal(np.asarray(engine.module.select(q)), [0, 1, 2])
    monkeypatch.setenv("VGF_BACKEND", "gpu")
    with pytest.raises(ValueError, match="VGF_BACKEND: expected one of auto, .*, got 'gpu'; "):
        engine.module.select(q)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_fp32_is_the_precision_of_both(backend):
    np.testing.assert_array_equal(
        value(PROBLEM, backend=backend, precision="fp32"), value(PROBLEM, backend=backend, precision=None)
    )


def test_fp32_is_not_the_precision_of_float64():
    with pytest.raises(ValueError, match='precision: "fp32" needs float32 arrays, got float64; pass precision=None'):
        value(DOUBLE, backend="reference", precision="fp32")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_weights_packed_for_values_alone_are_packed_again_for_a_gradient(precision):
    p = make_problem()
    arrays = p.critic, p.obs, p.particles
    vgf.value(*arrays, backend="cpu", precision=precision)
    _, dq = vgf.value_and_grad(*arrays, backend="cpu", precision=precision)
    wanted = vgf.value_and_grad(make_problem().critic, *arrays[1:], backend="cpu", precision=precision)[1]
    np.testing.assert_array_equal(dq, wanted)


def test_the_order_of_auto_on_a_gpu(monkeypatch):
    for name in ("cuda", "triton"):
        monkeypatch.setattr(engines.MODULES[name], "missing", lambda: None)
    assert engines.resolve("auto", "cuda:1", "float32", None) == "cuda"
    monkeypatch.setattr(engines.MODULES["cuda"], "missing", lambda: "not built")
    assert engines.resolve("auto", "cuda:1", "float32", None) == "triton"
    assert engines.resolve("triton", "cuda:1", "float32", None) == "triton"


def test_the_environment_decides_in_jax(monkeypatch):
    import vgf_kernels.jax as jax_frontend

    monkeypatch.setenv("VGF_BACKEND", "reference")
    with pytest.raises(ValueError, match="the reference engine packs no weights"):
        jax_frontend.pack(jax_frontend.Network.from_mlp(PROBLEM.critic))
