"""The CUDA engine's latency kernel for Hopper, emulated on the host: all blocks of a cluster at once, stores into each
other's shared memory done as early or as late as they may be.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import plain_torch
import pytest
from accuracy import Expected, relative_error
from problems import make_problem
from test_accuracy import CONFIG
from test_cuda_emulated import THROUGH, act, flow, gradient, plain_bf16, td_target
from test_cuda_hopper import check_networks

from vgf_kernels import reference
from vgf_kernels.mlp import ACTIVATIONS

H100 = (132, 227 * 1024)
KERNELS = (
    "hopper_latency_kernel<16>", "hopper_latency_kernel<32>",
    "hopper_tile_kernel", "tile_kernel",
)  # fmt: skip
SIZES = {
    "a particle": {"B": 1, "N": 1, "E": 1, "hidden": (33,)},
    "E 3, four blocks a member": {"B": 2, "N": 7, "E": 3, "hidden": (40, 230, 17)},
    "states larger than a tile": {"B": 2, "N": 50, "E": 1},
    "no observations": {"B": 3, "N": 10, "O": 0},
    "many of everything": {"B": 2, "N": 5, "O": 300, "A": 40, "hidden": (100, 70)},
}


class Latency:
    """The functions in bfloat16; `taken`: launches of the latency kernel, when no other was launched."""

    def __init__(self, emulated, emulator, multiprocessors=H100[0]):
        self._engine, self._emulator = emulated, emulator
        emulator.set_machine(multiprocessors, H100[1], True)

    def __getattr__(self, name):
        def call(*args, **kwargs):
            before = launches(self._emulator)
            result = getattr(self._engine, name)(*args, precision="bf16", **kwargs)
            new = {kernel: n - before[kernel] for kernel, n in launches(self._emulator).items() if n > before[kernel]}
            assert new and all("latency" in kernel for kernel in new), new
            self.taken = new
            return result

        return call


def launches(emulator) -> dict[str, int]:
    return {kernel: emulator.launches_of(kernel) for kernel in KERNELS}


@pytest.fixture
def latency(emulated, emulator) -> Latency:
    return Latency(emulated, emulator)


@pytest.mark.parametrize("norm", ["pre", "none"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_networks(latency, activation, norm):
    check_networks(latency, make_problem(B=13, N=10, hidden=(64, 33, 48), activation=activation, norm=norm))


@pytest.mark.parametrize("name", SIZES)
def test_sizes(latency, name):
    check_networks(latency, make_problem(**{"activation": "silu", "hidden": (64, 48)} | SIZES[name]))


def test_sixteen_blocks(latency):
    """The largest cluster: eight blocks for each of two critics."""
    p = make_problem(B=1, N=10, hidden=(512, 300), activation="silu", A=5)
    check_networks(latency, p)


@pytest.mark.parametrize("aggregate", ["mean", "min"])
def test_gradient_of_the_aggregate(latency, aggregate):
    p = make_problem(B=5, N=10, E=3, hidden=(64, 48), activation="gelu")
    exact = gradient(reference, p.at(np.float64), aggregate)
    plain = plain_bf16(plain_torch.gradient, p, aggregate)
    assert relative_error(gradient(latency, p, aggregate), exact) <= 2 * relative_error(plain, exact)


@pytest.mark.parametrize("N", [1, 10, 32])
def test_flow(latency, N):
    p = make_problem(B=64 // N, N=N, hidden=(80, 64), activation="silu")
    exact = flow(reference, p.at(np.float64))
    plain = plain_bf16(plain_torch.flow, p, CONFIG)
    got = latency.flow(p.critic, p.obs, p.particles, CONFIG)
    assert sum(latency.taken.values()) == 1
    Expected(exact[-1], [plain]).check_share(got)
    path = latency.flow(p.critic, p.obs, p.particles, CONFIG, trajectory=True)
    np.testing.assert_array_equal(path[0], p.particles)
    np.testing.assert_array_equal(path[-1], got)


@pytest.mark.parametrize("reduce", ["mean", "max"])
def test_td_target_is_one_launch(latency, reduce):
    p = make_problem(B=7, N=10, hidden=(64, 70), activation="silu")
    exact = td_target(reference, p.at(np.float64), reduce=reduce)
    got = td_target(latency, p, reduce=reduce)
    assert sum(latency.taken.values()) == 1
    assert relative_error(got, exact) < 0.01


@pytest.mark.parametrize("B", [1, 20])
def test_act_is_one_launch(latency, B):
    p = make_problem(B=B, N=10, hidden=(64, 48), activation="silu", seed=1)
    exact = act(reference, p.at(np.float64))
    got = act(latency, p)
    assert sum(latency.taken.values()) == 1
    assert np.mean(np.abs(got - exact).max(axis=1) < 0.02) > 0.8  # near ties may go either way


def test_clusters_walk_over_tiles(emulated, emulator):
    """Two clusters, several tiles each, with another number of them for the last one; weights change with every phase."""
    p = make_problem(B=13, N=5, hidden=(100, 65), activation="silu")
    check_networks(few := Latency(emulated, emulator, 18), p)
    got = td_target(few, p)
    np.testing.assert_array_equal(got, td_target(Latency(emulated, emulator), p))


def test_the_height_of_tiles_changes_no_bit(emulated, emulator):
    latency = Latency(emulated, emulator, 18)
    p = make_problem(B=48, N=5, hidden=(64, 48), activation="silu")
    few = replace(p, obs=p.obs[:3], particles=p.particles[:3])
    many, its = flow(latency, p), dict(latency.taken)
    np.testing.assert_array_equal(flow(latency, few), many[:, :3])
    assert its != latency.taken, "both took tiles of one height"


def test_the_order_of_threads_changes_no_bit(latency, emulator):
    """Threads and blocks run in another order, and copies and stores are done as early or as late as they may be."""
    p = make_problem(B=3, N=10, hidden=(100, 33, 70))

    def results(seed):
        emulator.set_seed(seed)
        return [
            *latency.value_and_grad(p.critic, p.obs, p.particles, "min"),
            latency.flow(p.critic, p.obs, p.particles, THROUGH),
            td_target(latency, p),
        ]

    first = results(0)
    for seed in (1, 2, 4):
        for wanted, got in zip(first, results(seed)):
            assert np.isfinite(wanted).all()
            np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["obs", "particles"])
def test_a_non_finite_input_stays_in_its_state(latency, where, bad):
    p = make_problem(B=5, N=10, hidden=(33, 70))
    poisoned = replace(p, obs=p.obs.copy(), particles=p.particles.copy())
    getattr(poisoned, where)[0].flat[0] = bad
    got, clean = (flow(latency, problem) for problem in (poisoned, p))
    np.testing.assert_array_equal(got[:, 1:], clean[:, 1:])
    assert np.isnan(got[-1, 0]).any()


def test_a_state_does_not_depend_on_the_others(latency):
    p = make_problem(B=8, N=10, hidden=(64, 70), activation="silu")
    whole = flow(latency, p)
    order = np.roll(np.arange(8), 3)
    moved = replace(p, obs=p.obs[order], particles=p.particles[order])
    np.testing.assert_array_equal(flow(latency, moved), whole[:, order])


@pytest.mark.parametrize(
    "change",
    [{"norm": "post"}, {"hidden": (520,)}, {"E": 17}, {"hidden": (512, 512, 512, 512, 512)}],
    ids=["norm after the activation", "more than eight slices", "more members than blocks", "more weights than fit"],
)
def test_what_it_does_not_take_goes_to_another_kernel(emulated, emulator, change):
    emulator.set_machine(*H100, True)
    p = make_problem(**{"B": 1, "N": 10, "hidden": (64, 48)} | change)
    before = launches(emulator)
    emulated.value(p.critic, p.obs, p.particles, precision="bf16")
    launched = {kernel for kernel, n in launches(emulator).items() if n > before[kernel]}
    assert launched in ({"tile_kernel"}, {"hopper_tile_kernel"})
