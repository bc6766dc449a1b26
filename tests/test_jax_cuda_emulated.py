"""The CUDA engine's XLA handlers on the host: XLA calls them inside jit, and they run the emulated kernels."""

from __future__ import annotations

from dataclasses import replace

import jax
import numpy as np
import pytest

pytest.importorskip("jax.ffi")

import jax_on_cuda
from accuracy import expect, relative_error
from problems import make_mlp, make_problem
from test_accuracy import CONFIG

import vgf_kernels.jax as vgf
from vgf_kernels import cuda
from vgf_kernels.jax import platforms

SMALL = {"B": 3, "A": 2, "hidden": (17, 9)}
FILLS_NO_TILE, MORE_THAN_A_TILE = 6, 66  # particles a state
BOTH = pytest.mark.parametrize("N", [FILLS_NO_TILE, MORE_THAN_A_TILE])


@pytest.mark.parametrize(
    ("N", "changes"),
    [
        (FILLS_NO_TILE, {"kernel": None}),
        (FILLS_NO_TILE, {"bandwidth_grad": True, "aggregate": "min"}),
        (FILLS_NO_TILE, {"optimizer": "sgd", "clip": None, "bandwidth": 0.7}),
        (MORE_THAN_A_TILE, {}),
    ],
    ids=str,
)
def test_every_function(emulated_jax, N, changes):
    jax_on_cuda.check_everything(make_problem(N=N, seed=2, **SMALL), replace(CONFIG, **changes))


@BOTH
def test_traced_step_counts(emulated_jax, N):
    jax_on_cuda.check_counts(make_problem(N=N, seed=1, **SMALL))


@BOTH
def test_vmap(emulated_jax, N):
    jax_on_cuda.check_vmap(make_problem(N=N, **SMALL))


def test_the_gradient_of_value(emulated_jax):
    jax_on_cuda.check_gradient(make_problem(N=7, E=3, **SMALL))


def test_a_learned_score(emulated_jax):
    p = make_problem(N=7, **SMALL)
    network = make_mlp(np.random.default_rng(1), (7, 16, 2), 1, "relu", "none")
    config = replace(CONFIG, kernel=None)

    def run(score, backend):
        return np.asarray(
            vgf.transport(score, p.particles, config, obs=p.obs, max_norm=0.5, backend=backend)
        )

    moved = run(network, "cuda")
    assert relative_error(moved, run(network, "reference")) < 1e-5
    packed = vgf.pack(network, role="score", observations=p.obs.shape[1], backend="cuda")
    np.testing.assert_array_equal(run(packed, "cuda"), moved)


def test_a_network_without_steps_needs_no_gradient(emulated_jax):
    p = make_problem(N=7, **SMALL)
    config = replace(CONFIG, num_steps=0)

    def act(functions, p):
        return functions.act(p.critic, p.policy, p.obs, p.noise, 2, config)

    expect(act, p).check_share(act(emulated_jax, p))


def test_a_negative_count_that_only_the_device_sees_is_none(emulated_jax):
    p = make_problem(N=7, **SMALL)
    moved = jax.jit(lambda n: vgf.flow(p.critic, p.obs, p.particles, CONFIG, num_steps=n, backend="cuda"))(-2)
    np.testing.assert_array_equal(moved, p.particles)


# ---- precision


@pytest.mark.parametrize(
    ("setting", "precision"),
    [(None, "tf32"), ("tensorfloat32", "tf32"), ("bfloat16", "bf16"), ("highest", "fp32")],
)
def test_none_follows_the_matmul_precision(emulated_jax, setting, precision):
    p = make_problem(N=7, **SMALL)
    results = {
        name: vgf.value(p.critic, p.obs, p.particles, backend="cuda", precision=name)
        for name in ("fp32", "tf32", "bf16")
    }
    with jax.default_matmul_precision(setting):
        got = vgf.value(p.critic, p.obs, p.particles, backend="cuda")
    same = {name for name, result in results.items() if np.array_equal(got, result)}
    assert same == {precision}


# ---- packed weights


def test_packed_weights(emulated_jax):
    p = make_problem(N=7, **SMALL)
    critic, _ = jax_on_cuda.check_packed(p)
    with pytest.raises(ValueError, match="critic: expected weights packed with observations=4, got 5"):
        vgf.value(critic, p.obs[:, :4], np.zeros((3, 7, 3), np.float32))
    with pytest.raises(ValueError, match="expected weights packed for the cpu engine, got those of cuda"):
        vgf.value(critic, p.obs, p.particles, backend="cpu")
    with pytest.raises(ValueError, match="packed weights are a compiled engine's"):
        vgf.value(critic, p.obs, p.particles, backend="reference")
    wrong = vgf.Packed(critic.weights[:-64], critic.description)
    with pytest.raises(Exception, match="packed weights of another network, engine or version: expected"):
        jax.block_until_ready(vgf.value(wrong, p.obs, p.particles))


def test_packing_needs_the_number_of_observations(emulated_jax):
    network = vgf.Network.from_mlp(make_problem(N=7, **SMALL).critic)
    with pytest.raises(ValueError, match="observations: the cuda engine's layout depends on .* got None"):
        vgf.pack(network, backend="cuda")
    with pytest.raises(ValueError, match="role: expected one of"):
        vgf.pack(network, role="actor")


# ---- the seam


def test_too_small_a_device_is_one_clear_error(emulated_jax, emulator):
    emulator.set_machine(2, 4 * 1024)
    p = make_problem(N=7, **SMALL)
    with pytest.raises(Exception, match="vgf_kernels: the cuda engine needs more than the 4096 bytes of shared"):
        jax.block_until_ready(vgf.value(p.critic, p.obs, p.particles, backend="cuda"))


@BOTH
def test_all_work_is_on_the_stream_of_xla(emulated_jax, emulator, N):
    p = make_problem(N=N, **SMALL)
    before, others = emulator.work_on(1), emulator.work_on(0)
    jax.block_until_ready(vgf.flow(p.critic, p.obs, p.particles, CONFIG, backend="cuda"))
    assert emulator.work_on(1) > before and emulator.work_on(0) == others


def test_arrays_on_the_cpu_are_refused(emulated_jax, monkeypatch):
    """As on a machine with a GPU, where the engine can run."""
    monkeypatch.setattr(cuda, "DEVICE", "cuda")
    monkeypatch.setitem(platforms.ENGINES, "cuda", replace(platforms.ENGINES["cuda"], platform="cuda"))
    p = make_problem(N=7, **SMALL)
    with pytest.raises(ValueError, match="backend 'cuda' computes on a GPU, got arrays on cpu"):
        vgf.value(p.critic, p.obs, jax.numpy.asarray(p.particles), backend="cuda")
    with pytest.raises(ValueError, match="the cuda engine was asked for, .* but this is compiled for cpu"):
        jax.jit(lambda x: vgf.value(p.critic, p.obs, x, backend="cuda"))(p.particles)


# ---- what is compiled for a GPU


@pytest.fixture
def for_gpu(emulator, monkeypatch):
    """The emulated handlers in the place of the GPU's own, to compile for one without having it."""
    emulator.install_in_jax(monkeypatch)
    engine = replace(platforms.ENGINES["cuda"], platform="cuda", registry="CUDA")
    monkeypatch.setitem(platforms.ENGINES, "cuda", engine)

    def text(function, *args, platforms=("cuda",)):
        return jax.jit(function).trace(*args).lower(lowering_platforms=platforms).as_text()

    return text


def test_auto_is_the_engine_of_the_platform(for_gpu):
    p = make_problem(N=7, **SMALL)

    def flow(x):
        return vgf.flow(p.critic, p.obs, x, CONFIG)

    on_gpu, on_cpu = (for_gpu(flow, p.particles, platforms=(name,)) for name in ("cuda", "cpu"))
    assert (on_gpu.count("@vgf_emulated_pack"), on_gpu.count("@vgf_emulated_flow")) == (1, 1)
    assert "threads" not in on_gpu
    assert "@vgf_flow" not in on_gpu
    assert "emulated" not in on_cpu
    both = for_gpu(flow, p.particles, platforms=("cuda", "cpu"))
    assert (both.count("@vgf_emulated_flow"), both.count("@vgf_flow")) == (1, 1)


def test_a_forced_engine_is_not_compiled_for_another_platform(for_gpu):
    p = make_problem(N=7, **SMALL)
    with pytest.raises(ValueError, match="the cpu engine was asked for, .* but this is compiled for cuda"):
        for_gpu(lambda x: vgf.flow(p.critic, p.obs, x, CONFIG, backend="cpu"), p.particles)


def test_only_large_states_that_interact_loop(for_gpu):
    """And they pack outside of the loop."""
    p = make_problem(N=MORE_THAN_A_TILE, **SMALL)

    def text(x=p.particles, trajectory=False, **changes):
        config = replace(CONFIG, **changes)
        return for_gpu(lambda x: vgf.flow(p.critic, p.obs[: len(x)], x, config, trajectory), x)

    loop = text()
    before, inside = loop.split("stablehlo.while")
    assert "@vgf_emulated_pack" in before
    assert "@vgf_emulated_pack" not in inside
    assert "@vgf_emulated_value_and_grad" in inside
    assert "@vgf_emulated_update" in inside
    for whole in (text(x=p.particles[:, :64]), text(kernel=None), text(trajectory=True)):
        assert "while" not in whole
        assert "@vgf_emulated_flow" in whole
