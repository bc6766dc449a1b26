"""precision="bf16" on the CPU engine: no further from float64 than twice plain torch in bfloat16."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import plain_torch
import pytest
import torch
from accuracy import Expected, relative_error
from problems import layers_of, make_problem
from test_independence import results

from vgf_kernels import MLP, FlowConfig, reference
from vgf_kernels.mlp import ACTIVATIONS, NORMS

CONFIG = FlowConfig(num_steps=3, learning_rate=0.1, alpha=0.3)


class Bf16:
    """The functions of an engine, all called with precision="bf16"."""

    def __init__(self, engine):
        self._engine = engine

    def __getattr__(self, name):
        function = getattr(self._engine, name)
        return lambda *args, **kwargs: function(*args, **kwargs, precision="bf16")


@pytest.fixture
def bf16(cpu):
    return Bf16(cpu)


def plain(function, p, *args):
    """A function of plain_torch on the problem's states, its products in bfloat16."""
    obs, x = torch.from_numpy(p.obs), torch.from_numpy(p.particles)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return function(p.critic, obs, x, *args).float().numpy()


def exactly(name, p, *args):
    exact = p.at(np.float64)
    return getattr(reference, name)(exact.critic, exact.obs, exact.particles, *args)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_value_and_gradient(bf16, activation, norm):
    p = make_problem(B=6, N=10, E=3, hidden=(64, 33, 48), activation=activation, norm=norm)
    q, dq = bf16.value_and_grad(p.critic, p.obs, p.particles)
    exact_q, exact_dq = exactly("value_and_grad", p, "mean")
    Expected(exact_q, [plain(plain_torch.value, p)]).check(q)
    Expected(exact_dq, [plain(plain_torch.gradient, p, "mean")]).check(dq)


@pytest.mark.parametrize("hidden", [(33,), (1, 17), (17, 1, 33), (300, 17), (512, 512)])
@pytest.mark.parametrize("N", [1, 7, 10, 40])
def test_sizes(bf16, N, hidden):
    p = make_problem(B=5, N=N, hidden=hidden, activation="relu")
    q, dq = bf16.value_and_grad(p.critic, p.obs, p.particles)
    exact_q, exact_dq = exactly("value_and_grad", p, "mean")
    Expected(exact_q, [plain(plain_torch.value, p)]).check(q)
    Expected(exact_dq, [plain(plain_torch.gradient, p, "mean")]).check(dq)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_flow(bf16, optimizer):
    p = make_problem(B=16, N=10, hidden=(64, 64))
    config = replace(CONFIG, optimizer=optimizer)
    expected = Expected(exactly("flow", p, config), [plain(plain_torch.flow, p, config)])
    expected.check_share(bf16.flow(p.critic, p.obs, p.particles, config))


def test_it_is_another_computation(bf16, cpu):
    """bfloat16 has 8 bits: the results are near float32's and not the same."""
    p = make_problem(hidden=(64, 64))
    near, full = bf16.value(p.critic, p.obs, p.particles), cpu.value(p.critic, p.obs, p.particles)
    assert 1e-5 < relative_error(near, full) < 1e-1
    np.testing.assert_array_equal(cpu.value(p.critic, p.obs, p.particles), full)


@pytest.mark.parametrize("N", [3, 10, 40])
def test_states_are_independent(bf16, N):
    p = make_problem(B=13, N=N)
    together = results(bf16, p)
    for state in (0, 5, 12):
        for whole, alone in zip(together, results(bf16, p, slice(state, state + 1))):
            np.testing.assert_array_equal(whole[state], alone[0])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_non_finite_input_stays_in_its_state(bf16, bad):
    p = make_problem(B=6, N=3)
    poisoned = replace(p, obs=p.obs.copy())
    poisoned.obs[2, 1] = bad
    others = np.array([0, 1, 3, 4, 5])
    for wanted, got in zip(results(bf16, p), results(bf16, poisoned)):
        np.testing.assert_array_equal(got[others], wanted[others])


@pytest.mark.parametrize("of", ["weights", "activations"])
@pytest.mark.parametrize(("tie", "wanted"), [(1 + 2**-8, 1), (1 + 3 * 2**-8, 1 + 2**-6)])
def test_ties_round_to_even(bf16, tie, wanted, of):
    """Each lies halfway between two numbers of bfloat16."""
    weights = ((2, 1), (1, tie if of == "weights" else 1), (1, 1))
    layers = [{"W": np.full((i, 1), w, np.float32), "b": np.zeros(1, np.float32)} for i, w in weights]
    obs = np.full((1, 1), 1 if of == "weights" else tie, np.float32)
    q = bf16.value(MLP.from_layers(layers), obs, np.zeros((1, 1, 1), np.float32))
    assert q.item() == wanted


@pytest.mark.parametrize("N", [1, 5, 10, 14, 40])
def test_what_is_rounded(bf16, N):
    """Weights and activations of products between hidden layers, and the gradient on its way back through them; no more."""
    p = make_problem(B=6, N=N, E=1, hidden=(80, 48), norm="none", activation="relu")
    rng = np.random.default_rng(N)

    def eighths(shape):  # the first layer's sums are exact
        return rng.integers(-16, 17, shape).astype(np.float32) / 8

    def rounded(array):
        return torch.from_numpy(array.astype(np.float32)).bfloat16().double().numpy()

    first, between, last = layers_of(p.critic)[0]
    first = {name: eighths(a.shape) for name, a in first.items()}
    obs, actions = eighths(p.obs.shape), eighths(p.particles.shape)
    q, dq = bf16.value_and_grad(MLP.from_layers([first, between, last]), obs, actions)

    x = np.concatenate([np.broadcast_to(obs[:, None], (6, N, obs.shape[1])), actions], -1).astype(np.float64)
    z, W = x @ first["W"] + first["b"], rounded(between["W"])
    y = rounded(np.maximum(z, 0)) @ W + between["b"]
    back = rounded((y > 0) * last["W"][:, 0]) @ W.T * (z > 0)
    np.testing.assert_allclose(q[0], np.maximum(y, 0) @ last["W"][:, 0] + last["b"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(dq, back @ first["W"][obs.shape[1] :].T, rtol=0, atol=1e-4)


@pytest.mark.parametrize("bits", [0x7FFFFFFF, 0xFFFFFFFF, 0x7FC00000])
@pytest.mark.parametrize("where", ["obs", "weights"])
def test_a_nan_of_any_bits_stays_one(bf16, where, bits):
    """Where rounding up would carry into the exponent and the sign."""
    nan = np.uint32(bits).view(np.float32)
    p = make_problem(B=4, N=5, norm="none")
    members = layers_of(p.critic)
    if where == "obs":
        p.obs[2, 1] = nan
    else:
        members[1][1]["W"] = np.full_like(members[1][1]["W"], nan)
    q = bf16.value(MLP.from_layers(members), p.obs, p.particles)
    wanted = np.zeros_like(q, bool)
    wanted[(slice(None), 2) if where == "obs" else 1] = True
    np.testing.assert_array_equal(np.isnan(q), wanted)


def test_the_number_of_threads_changes_no_bit(cpu_numpy, monkeypatch):
    p = make_problem(B=5, N=40)
    monkeypatch.setenv("VGF_NUM_THREADS", "1")
    alone = results(Bf16(cpu_numpy), p)
    monkeypatch.setenv("VGF_NUM_THREADS", "3")
    for got, wanted in zip(results(Bf16(cpu_numpy), p), alone):
        np.testing.assert_array_equal(got, wanted)


def test_only_where_an_engine_has_it():
    from engines import Engine

    p = make_problem()
    with pytest.raises(ValueError, match="precision: the reference engine has fp32, got 'bf16'; "):
        Engine("numpy", "reference").value(p.critic, p.obs, p.particles, precision="bf16")
    with pytest.raises(ValueError, match="precision: the cpu engine has .*fp32.*, got 'tf32'; "):
        Engine("numpy", "cpu").value(p.critic, p.obs, p.particles, precision="tf32")
