"""The CUDA engine's own kernels on the host: every setting, size and precision, and what the order of threads changes."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import plain_torch
import pytest
import torch
from accuracy import Expected, expect, relative_error
from problems import make_problem
from test_accuracy import CONFIG, SETTINGS, config_of
from test_bandwidth import ARRANGEMENTS, EXACTLY_ORDERED, check

from vgf_kernels import reference
from vgf_kernels.mlp import ACTIVATIONS, NORMS

A100, H100 = (108, 163 * 1024), (132, 227 * 1024)  # multiprocessors, shared memory of a block
GPU_NAN = np.uint32(0x7FFFFFFF).view(np.float32)  # all its bits
THROUGH = replace(CONFIG, bandwidth_grad=True)


def gradient(functions, p, aggregate="mean"):
    return functions.value_and_grad(p.critic, p.obs, p.particles, aggregate)[1]


def direction(functions, p, config=CONFIG):
    return functions.direction(p.critic, p.obs, p.particles, config)


def flow(functions, p, config=CONFIG):
    return functions.flow(p.critic, p.obs, p.particles, config, trajectory=True)


def sample(functions, p):
    return functions.sample(p.policy, p.obs, p.noise, 3)


def td_target(functions, p, aggregate="min", reduce="mean", config=CONFIG):
    return functions.td_target(
        p.critic,
        p.target_critic,
        p.policy,
        p.obs,
        p.noise,
        p.reward,
        p.mask,
        0.97,
        2,
        config,
        aggregate,
        reduce,
    )


def act(functions, p, select="max", aggregate="mean", config=CONFIG):
    noise = None if select == "max" else p.select_noise
    return functions.act(
        p.critic, p.policy, p.obs, p.noise, 2, config, select, aggregate, temperature=0.5, select_noise=noise
    )


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_networks(emulated, activation, norm):
    p = make_problem(B=4, N=10, E=3, hidden=(64, 33, 48), activation=activation, norm=norm)
    for run in (gradient, sample):
        expect(run, p).check(run(emulated, p))


@pytest.mark.parametrize("N", [9, 70])
@pytest.mark.parametrize("setting", SETTINGS)
def test_settings(emulated, setting, N):
    p, config = make_problem(B=3, N=N, A=4, seed=1), config_of(setting)
    expected = expect(lambda functions, p: direction(functions, p, config), p)
    expected.check(direction(emulated, p, config))
    expected = expect(lambda functions, p: flow(functions, p, config), p)
    expected.check_share(flow(emulated, p, config))

    def transport(functions, p):
        return functions.transport(lambda x: x * x - x, p.particles, config)

    expect(transport, p).check_share(transport(emulated, p))


@pytest.mark.parametrize("bandwidth_grad", [False, True])
@pytest.mark.parametrize(("N", "A"), [(1, 3), (2, 1), (11, 5), (12, 4), (19, 32), (19, 33), (20, 4), (33, 2)])
def test_states_that_a_warp_moves_and_others(emulated, N, A, bandwidth_grad):
    """By N and A a state is a warp's, or its tile is the block's."""
    p = make_problem(B=4, N=N, A=A, hidden=(24,), activation="silu", seed=3)
    config = replace(CONFIG, bandwidth_grad=bandwidth_grad)

    def moved(functions, p):
        return functions.transport(lambda x: x * x - x, p.particles, config)

    expect(moved, p).check_share(moved(emulated, p))
    expect(lambda functions, p: flow(functions, p, config), p).check_share(flow(emulated, p, config))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 11, 18, 19, 20, 33])
@pytest.mark.parametrize("arrange", ARRANGEMENTS)
def test_the_median(emulated, arrange, n):
    """With the gradient through it where float32 orders the distances as float64 does: equal ones in the order of the matrix."""
    x = np.stack([arrange(np.random.default_rng(seed), n) for seed in range(4)])
    for bandwidth_grad in {False, arrange in EXACTLY_ORDERED}:
        check(emulated, x, bandwidth_grad)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("N", [2, 10, 20])
def test_a_number_that_is_not_finite_is_all_its_state_has(emulated, N, bad):
    """The distance of infinity to itself is NaN, so there is no median: as in plain float32."""
    p = make_problem(B=3, N=N, seed=4)
    p.particles[1, N // 2, 0] = bad
    config = replace(CONFIG, num_steps=1)
    moved = emulated.transport(np.zeros_like, p.particles, config)
    assert np.isnan(moved[1]).all() and np.isfinite(moved[[0, 2]]).all()
    with np.errstate(invalid="ignore"):
        assert np.isnan(reference.transport(np.zeros_like, p.particles, config)[1]).all()


@pytest.mark.parametrize("N", [6, 66])
@pytest.mark.parametrize("aggregate", ["mean", "min"])
@pytest.mark.parametrize("how", ["max", "softmax", "uniform"])
def test_act(emulated, how, aggregate, N):
    p = make_problem(B=20, N=N, seed=2, hidden=(17,))
    expect(lambda f, p: act(f, p, how, aggregate), p).check_share(act(emulated, p, how, aggregate))


@pytest.mark.parametrize("N", [6, 66])
@pytest.mark.parametrize("change", [{"kernel": None}, {"num_steps": 0}, {"num_steps": 1}], ids=str)
def test_act_after_other_flows(emulated, change, N):
    """Particles that meet in the selection alone; and a single step."""
    p, config = make_problem(B=20, N=N, seed=2, hidden=(17,)), replace(CONFIG, **change)
    expect(lambda f, p: act(f, p, config=config), p).check_share(act(emulated, p, config=config))


@pytest.mark.parametrize("N", [6, 66])
@pytest.mark.parametrize("aggregate", ["mean", "min"])
@pytest.mark.parametrize("reduce", ["mean", "max"])
def test_td_target(emulated, reduce, aggregate, N):
    p = make_problem(B=10, N=N, seed=2, hidden=(17,))
    for config in (CONFIG, *(replace(CONFIG, **change) for change in ({"kernel": None}, {"num_steps": 0}, {"num_steps": 1}))):
        expected = expect(lambda f, p, config=config: td_target(f, p, aggregate, reduce, config), p)
        expected.check_share(td_target(emulated, p, aggregate, reduce, config))


@pytest.mark.parametrize(
    "sizes",
    [
        {"hidden": (1,)},
        {"hidden": (17, 1, 33), "norm": "post"},
        {"hidden": (300, 33)},  # more than one chunk of columns
        {"hidden": (16, 32, 64, 48, 31), "norm": "none"},
        {"hidden": (8, 5, 7, 6) * 10, "norm": "post", "B": 2, "N": 4, "E": 1},  # more layers than a launch packs
        {"B": 1, "N": 1, "A": 1, "O": 0, "E": 1},
        {"B": 70, "N": 1},
        {"B": 5, "N": 33, "A": 17, "O": 40},
        {"B": 1, "N": 65, "A": 33},
        {"B": 2, "N": 130, "A": 8, "E": 1, "hidden": (16,)},
        {"E": 13, "B": 2},
        {"O": 70, "hidden": (17,)},  # networks narrower than what they are given, or give
        {"A": 70, "hidden": (17,)},
    ],
    ids=str,
)
def test_sizes(emulated, sizes):
    p = make_problem(**{"hidden": (33, 17), "activation": "relu"} | sizes)
    for run in (gradient, sample):
        expect(run, p).check(run(emulated, p))
    for config in (CONFIG, THROUGH):
        expected = expect(lambda functions, p, config=config: direction(functions, p, config), p)
        expected.check(direction(emulated, p, config))
    for config in (CONFIG, replace(CONFIG, num_steps=0)):
        expected = expect(lambda functions, p, config=config: td_target(functions, p, config=config), p)
        expected.check_share(td_target(emulated, p, config=config))


@pytest.mark.parametrize("largest", ["critic", "target_critic", "policy"])
@pytest.mark.parametrize(
    ("precision", "machine"),
    [("fp32", (2, 80 * 1024)), ("fp32", (4, 227 * 1024, True)), ("bf16", (132, 227 * 1024, True))],
    ids=["general", "Hopper's tiles", "latency"],
)
def test_networks_of_several_sizes(emulated, emulator, largest, precision, machine):
    """One of a call's networks is deeper and wider than the others, and has more members."""
    emulator.set_machine(*machine)
    small, large = (
        make_problem(B=4, N=10, O=40, E=E, hidden=hidden, activation="silu")
        for E, hidden in ((1, (17,)), (3, (200, 33, 100)))
    )
    p = replace(small, **{largest: getattr(large, largest)})
    got = td_target(Precise(emulated, precision), p)
    if precision == "fp32":
        expect(td_target, p).check_share(got)
    assert relative_error(got, td_target(reference, p.at(np.float64))) < {"fp32": 1e-4, "bf16": 0.02}[precision]


class Precise:
    """The functions in one precision."""

    def __init__(self, emulated, precision) -> None:
        self._engine, self._precision = emulated, precision

    def __getattr__(self, name):
        return partial(getattr(self._engine, name), precision=self._precision)


def test_more_tiles_of_pairs_than_a_launch_should_have(emulated, emulator):
    """A state of them is still taken whole."""
    emulator.set_machine(1, 99 * 1024)
    p = make_problem(B=2, N=32 * 64 + 1, A=1)
    config = replace(CONFIG, num_steps=1, bandwidth=0.9)

    def transport(functions, p):
        return functions.transport(lambda x: x * x - x, p.particles, config)

    expect(transport, p).check_share(transport(emulated, p))


def test_sums_of_many_particles(emulated):
    """Equal terms round alike: one after the other, 1,000 of them would be off by hundreds of units in the last place."""
    p = make_problem(B=1, N=2000, A=1)
    p.particles[:, ::2], p.particles[:, 1::2] = 0.0, 0.7
    config = replace(CONFIG, num_steps=1, bandwidth=0.9, optimizer="sgd", learning_rate=1e3, clip=None)

    def transport(functions, p):
        return functions.transport(np.zeros_like, p.particles, config)

    expect(transport, p).check(transport(emulated, p))


# ---- precisions: the bfloat16 of torch on a CPU is the bar; tf32 has three bits more

CONFIGS = {"bf16": 1.0, "tf32": 1 / 8}


def plain_bf16(function, p, *args):
    obs, x = torch.from_numpy(p.obs), torch.from_numpy(p.particles)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return function(p.critic, obs, x, *args).float().numpy()


@pytest.mark.parametrize("precision", CONFIGS)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("machine", [A100, H100])
def test_low_precisions(emulated, emulator, precision, norm, machine):
    emulator.set_machine(*machine)
    p = make_problem(B=13, N=10, E=2, hidden=(64, 33, 48), activation="silu", norm=norm)
    exact = p.at(np.float64)
    q, dq = emulated.value_and_grad(p.critic, p.obs, p.particles, precision=precision)
    exact_q, exact_dq = reference.value_and_grad(exact.critic, exact.obs, exact.particles)
    for got, wanted, plain in (
        (q, exact_q, plain_bf16(plain_torch.value, p)),
        (dq, exact_dq, plain_bf16(plain_torch.gradient, p, "mean")),
    ):
        error = relative_error(got, wanted)
        assert 1e-6 < error <= 2 * CONFIGS[precision] * relative_error(plain, wanted)


@pytest.mark.parametrize("N", [10, 128, 130])
def test_a_bf16_flow(emulated, emulator, N):
    emulator.set_machine(*H100)
    p = make_problem(B=2, N=N, hidden=(64, 64), activation="silu")
    exact = flow(reference, p.at(np.float64))
    plain = plain_bf16(plain_torch.flow, p, CONFIG)
    got = emulated.flow(p.critic, p.obs, p.particles, CONFIG, precision="bf16")
    Expected(exact[-1], [plain]).check_share(got)


# ---- the machine


def test_small_and_large_machines(emulated, emulator):
    """Activations in shared memory or in scratch, tiles of any height, several tiles a block: the same bits."""
    p = make_problem(B=9, N=10, A=3, hidden=(300, 288))
    runs, results = (gradient, sample, td_target), []
    for machine in ((2, 80 * 1024), (1, 99 * 1024), (8, 227 * 1024)):
        emulator.set_machine(*machine)
        results.append([run(emulated, p) for run in runs])
    for run, got, *others in zip(runs, *results):
        expect(run, p).check_share(got)
        for other in others:
            np.testing.assert_array_equal(other, got)


@pytest.mark.parametrize("N", [66, 128])
def test_states_as_large_as_the_largest_tile(emulated, emulator, N):
    """Of wide networks, in as little shared memory as a GPU has; the general kernels are the same on both machines."""
    p, results = make_problem(B=1, N=N, E=1, hidden=(256,), activation="silu"), []
    for shared in (99, 163):
        emulator.set_machine(1, shared * 1024)
        results.append(emulated.direction(p.critic, p.obs, p.particles, THROUGH, precision="bf16"))
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
@pytest.mark.parametrize("N", [10, 40, 130])
def test_the_order_of_threads_changes_no_bit(emulated, emulator, N, precision):
    """A missing barrier would: threads run in another order, and copies are done as early or as late as they may be."""
    p = make_problem(B=3, N=N, hidden=(48, 33), norm="post")

    def results(seed):
        emulator.set_seed(seed)
        kwargs = {"precision": precision}
        return [
            *emulated.value_and_grad(p.critic, p.obs, p.particles, "min", **kwargs),
            emulated.direction(p.critic, p.obs, p.particles, THROUGH, **kwargs),
            emulated.flow(p.critic, p.obs, p.particles, CONFIG, **kwargs),
            emulated.act(p.critic, p.policy, p.obs, p.noise, 2, CONFIG, **kwargs),
        ]

    first = results(0)
    for seed in (1, 2):
        for wanted, got in zip(first, results(seed)):
            assert np.isfinite(wanted).all()
            np.testing.assert_array_equal(got, wanted)


# ---- independence


@pytest.mark.parametrize("N", [3, 70])
def test_states_are_independent(emulated, N):
    p = make_problem(B=33, N=N, hidden=(17,))  # large states are looked at 32 at a time on this machine

    def results(states=slice(None)):
        obs, x, noise = p.obs[states], p.particles[states], p.noise[states]
        return [
            emulated.value_and_grad(p.critic, obs, x, "min")[1],
            emulated.direction(p.critic, obs, x, THROUGH),
            emulated.flow(p.critic, obs, x, CONFIG),
            emulated.act(p.critic, p.policy, obs, noise, 2, CONFIG),
        ]

    together = results()
    for state in (0, 31, 32):
        for whole, alone in zip(together, results(slice(state, state + 1))):
            assert np.isfinite(alone).all()
            np.testing.assert_array_equal(whole[state], alone[0])


@pytest.mark.parametrize("bad", [np.nan, np.inf, GPU_NAN], ids=["nan", "inf", "a GPU's nan"])
@pytest.mark.parametrize("where", ["obs", "particles"])
@pytest.mark.parametrize("N", [3, 40, 70])
def test_a_non_finite_input_stays_in_its_state(emulated, N, where, bad):
    p = make_problem(B=4, N=N, hidden=(33,))
    poisoned = replace(p, obs=p.obs.copy(), particles=p.particles.copy())
    getattr(poisoned, where)[2].flat[0] = bad
    others = np.array([0, 1, 3])
    for config in (CONFIG, THROUGH):
        got, clean = (flow(emulated, problem, config) for problem in (poisoned, p))
        np.testing.assert_array_equal(got[:, others], clean[:, others])
        assert np.isnan(got[-1, 2]).any()


# ---- the seam
