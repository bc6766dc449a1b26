"""The CUDA engine's Hopper tile kernels, emulated on the host: blocks of a cluster at once, wgmma read through its descriptors."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import product

import numpy as np
import plain_torch
import pytest
import torch
from accuracy import Expected, relative_error
from problems import change_layers, make_problem
from test_accuracy import CONFIG
from test_cuda_emulated import CONFIGS, THROUGH, act, flow, gradient, plain_bf16, sample, td_target

from vgf_kernels import reference
from vgf_kernels.mlp import ACTIVATIONS

SHARED = 227 * 1024
# Few multiprocessors, so that few particles make the Hopper kernel the choice: as many as have one cluster, whose two blocks
# take a tile each; or two, and both of a cluster take one, with a member of its critics each.
MULTIPROCESSORS = {"a member at a time": 2, "two members at once": 4}
KERNELS = ("hopper_tile_kernel", "tile_kernel")
SHARES = CONFIGS | {"fp32": 2.0**-14}
SIZES = {
    "E 1, states larger than a tile": {"B": 3, "N": 70, "E": 1},
    "E 3, N 7": {"B": 30, "N": 7, "E": 3, "hidden": (40, 17, 33)},
    "N 64": {"B": 4, "N": 64, "hidden": (33,)},
    "several chunks of columns": {"B": 13, "N": 10, "hidden": (300, 512, 289)},
    "no observations": {"B": 13, "N": 10, "O": 0},
    "as many actions as fit": {"B": 2, "N": 3, "A": 512, "hidden": (40,)},
    "norms over three units": {"B": 13, "N": 10, "hidden": (32, 3, 40)},
    "many of everything": {"B": 13, "N": 10, "O": 300, "A": 40, "hidden": (100,)},
}


def expected(precision, exact, function, p, *args) -> Expected:
    """What a result is held to: torch's of bfloat16; or of float32, on networks rounded to tf32 or in several orders."""
    if precision == "bf16":
        return Expected(exact, [plain_bf16(function, p, *args)])
    change = p.reordered if precision == "fp32" else partial(p.rounded, 2.0**-11)
    return Expected(exact, [plain_fp32(function, change(seed), *args) for seed in range(8)])


def plain_fp32(function, p, *args):
    return function(p.critic, torch.from_numpy(p.obs), torch.from_numpy(p.particles), *args).numpy()


class Hopper:
    """The functions on a Hopper kernel's tiles; `taken` launches of that kernel, and none of another.

    Of what is to be expected of bfloat16, `share` is in this precision.
    """

    def __init__(self, emulated, emulator, members, precision):
        self._engine, self._emulator = emulated, emulator
        self._members, self.precision = members, precision
        self.share = SHARES[precision]
        emulator.set_machine(MULTIPROCESSORS[members], SHARED, True)

    def several_tiles(self) -> dict:
        """Sizes that give the blocks of one cluster several tiles, and some of them one less."""
        self._emulator.set_machine(2, SHARED, True)
        one = self._members == "a member at a time"
        return {"N": 10, "B": 40, "hidden": (48, 64)} if one else {"N": 10, "B": 26, "hidden": (512,)}

    def __getattr__(self, name):
        def call(*args, **kwargs):
            before = self._launches()
            result = getattr(self._engine, name)(*args, precision=self.precision, **kwargs)
            launched = {kernel: n - before[kernel] for kernel, n in self._launches().items() if n > before[kernel]}
            assert set(launched) == {"hopper_tile_kernel"}
            self.taken = launched["hopper_tile_kernel"]
            return result

        return call

    def _launches(self) -> dict[str, int]:
        return {kernel: self._emulator.launches_of(kernel) for kernel in KERNELS}


@pytest.fixture(params=product(MULTIPROCESSORS, SHARES), ids=", ".join)
def hopper(request, emulated, emulator) -> Hopper:
    return Hopper(emulated, emulator, *request.param)


def check_networks(functions, p, precision="bf16"):
    """q and dq, each at most twice as far off as torch's; and the samples."""
    exact = p.at(np.float64)
    q, dq = functions.value_and_grad(p.critic, p.obs, p.particles)
    exact_q, exact_dq = reference.value_and_grad(exact.critic, exact.obs, exact.particles)
    expected(precision, exact_q, plain_torch.value, p).check(q)
    expected(precision, exact_dq, plain_torch.gradient, p, "mean").check(dq)
    # or it is another precision
    assert precision == "fp32" or min(relative_error(q, exact_q), relative_error(dq, exact_dq)) > 1e-6
    exact_samples = sample(reference, exact)
    assert relative_error(sample(functions, p), exact_samples) < 0.01 * SHARES[precision]


@pytest.mark.parametrize("norm", ["pre", "none"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_networks(hopper, activation, norm):
    check_networks(hopper, make_problem(B=13, N=10, hidden=(64, 33, 48), activation=activation, norm=norm), hopper.precision)


@pytest.mark.parametrize("name", SIZES)
def test_sizes(hopper, name):
    check_networks(hopper, make_problem(**{"activation": "silu", "hidden": (64, 48)} | SIZES[name]), hopper.precision)


def test_several_tiles(hopper):
    check_networks(hopper, make_problem(**hopper.several_tiles(), activation="silu"), hopper.precision)


@pytest.mark.parametrize("hidden", [(64, 33), (4, 40, 5)])
def test_means_far_from_zero(hopper, hidden):
    """What a norm takes away is a hundred times what it leaves: the mean of squares would not tell the variance."""
    p = make_problem(B=13, N=10, hidden=hidden, activation="silu")
    far = replace(p, critic=change_layers(p.critic, lambda layers: [dict(layer, b=layer["b"] + 100) for layer in layers]))
    check_networks(hopper, far, hopper.precision)


@pytest.mark.parametrize("aggregate", ["mean", "min"])
def test_gradient_of_the_aggregate(hopper, aggregate):
    p = make_problem(B=13, N=10, E=3, hidden=(64, 48), activation="gelu")
    exact = gradient(reference, p.at(np.float64), aggregate)
    expected(hopper.precision, exact, plain_torch.gradient, p, aggregate).check(gradient(hopper, p, aggregate))


@pytest.mark.parametrize(("precision", "B", "N"), [("bf16", 1, 131), ("bf16", 3, 200), ("tf32", 1, 70), ("fp32", 1, 70)])
def test_flow_of_states_larger_than_a_tile(emulated, emulator, precision, B, N):
    """Its parts are other programs than a call of as few small states."""
    emulator.set_machine(18, SHARED, True)
    p = make_problem(B=B, N=N, hidden=(33, 48), activation="silu")
    got = emulated.flow(p.critic, p.obs, p.particles, CONFIG, precision=precision)
    exact = flow(reference, p.at(np.float64))
    expected(precision, exact[-1], plain_torch.flow, p, CONFIG).check_share(got)


@pytest.mark.parametrize("N", [10, 64])
def test_flow(hopper, N):
    p = make_problem(B=240 // N, N=N, hidden=(64, 64), activation="silu")
    exact = flow(reference, p.at(np.float64))
    got = hopper.flow(p.critic, p.obs, p.particles, CONFIG)
    assert hopper.taken == 1
    expected(hopper.precision, exact[-1], plain_torch.flow, p, CONFIG).check_share(got)
    path = hopper.flow(p.critic, p.obs, p.particles, CONFIG, trajectory=True)
    np.testing.assert_array_equal(path[0], p.particles)
    np.testing.assert_array_equal(path[-1], got)


@pytest.mark.parametrize("reduce", ["mean", "max"])
def test_td_target_is_one_launch(hopper, reduce):
    p = make_problem(B=24, N=10, hidden=(64, 48), activation="silu")
    exact = td_target(reference, p.at(np.float64), reduce=reduce)
    got = td_target(hopper, p, reduce=reduce)
    assert hopper.taken == 1
    assert relative_error(got, exact) < 0.01 * hopper.share


def test_act_is_one_launch(hopper):
    p = make_problem(B=24, N=10, hidden=(64, 48), activation="silu")
    exact = act(reference, p.at(np.float64))
    got = act(hopper, p)
    assert hopper.taken == 1
    assert np.mean(np.abs(got - exact).max(axis=1) < 0.02 * hopper.share) > 0.8  # near ties may go either way


@pytest.mark.parametrize(("precision", "N"), [("bf16", 128), ("bf16", 130), ("tf32", 65), ("fp32", 65)])
def test_large_states(emulated, emulator, precision, N):
    """A state that fills the largest tile of the general kernel; and larger ones, whose networks alone are run on tiles."""
    emulator.set_machine(4, SHARED, True)
    p = make_problem(B=2, N=N, hidden=(64, 48), activation="silu")
    exact = flow(reference, p.at(np.float64))
    plain = plain_bf16(plain_torch.flow, p, CONFIG)
    before = {kernel: emulator.launches_of(kernel) for kernel in KERNELS}
    got = emulated.flow(p.critic, p.obs, p.particles, CONFIG, precision=precision)
    launched = {kernel: emulator.launches_of(kernel) - before[kernel] for kernel in KERNELS}
    on_tiles = 0 if N == 128 else 1 + CONFIG.num_steps  # one for the observations
    assert launched == {"hopper_tile_kernel": on_tiles, "tile_kernel": int(N == 128)}
    Expected(exact[-1], [plain]).check_share(got)


@pytest.mark.parametrize("precision", SHARES)
def test_members_at_once_change_no_bit(emulated, emulator, precision):
    p = make_problem(B=24, N=10, E=3, hidden=(300, 48), activation="silu")
    results = [flow(Hopper(emulated, emulator, members, precision), p) for members in MULTIPROCESSORS]
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("several", [True, False])
def test_the_order_of_threads_changes_no_bit(hopper, emulator, several):
    """Threads and blocks run in another order, and copies and products are done as early or as late as they may be."""
    p = make_problem(**hopper.several_tiles() if several else {"B": 13, "N": 10, "hidden": (300, 64)})

    def results(seed):
        emulator.set_seed(seed)
        return [
            *hopper.value_and_grad(p.critic, p.obs, p.particles, "min"),
            td_target(hopper, p, config=replace(THROUGH, num_steps=2)),
        ]

    first = results(0)
    for seed in (1, 2):
        for wanted, got in zip(first, results(seed)):
            assert np.isfinite(wanted).all()
            np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["obs", "particles"])
def test_a_non_finite_input_stays_in_its_state(hopper, where, bad):
    p = make_problem(B=13, N=10, hidden=(33,))
    poisoned = replace(p, obs=p.obs.copy(), particles=p.particles.copy())
    getattr(poisoned, where)[2].flat[0] = bad
    others = np.arange(13) != 2
    got, clean = (flow(hopper, problem) for problem in (poisoned, p))
    np.testing.assert_array_equal(got[:, others], clean[:, others])
    assert np.isnan(got[-1, 2]).any()


def test_a_state_does_not_depend_on_the_others(hopper):
    p = make_problem(B=24, N=10, hidden=(64, 48), activation="silu")
    whole = flow(hopper, p)
    order = np.roll(np.arange(24), 5)
    moved = replace(p, obs=p.obs[order], particles=p.particles[order])
    np.testing.assert_array_equal(flow(hopper, moved), whole[:, order])


@pytest.mark.parametrize("precision", SHARES)
@pytest.mark.parametrize(
    "change",
    [{"norm": "post"}, {"hidden": (520,)}, {"A": 513}, {"A": 607}, {"hidden": (64, 2, 48)}, {"hidden": (1,)}],
    ids=[
        "norm after the activation", "more units than fit", "more actions than fit", "more actions, where memory would do",
        "a norm over two units", "a norm over one",
    ],
)
def test_what_it_does_not_take_goes_to_the_general_kernel(emulated, emulator, change, precision):
    emulator.set_machine(4, SHARED, True)
    p = make_problem(**{"B": 13, "N": 10, "hidden": (64, 48), "activation": "silu"} | change)
    exact = p.at(np.float64)

    def launches():
        return np.array([emulator.launches_of(kernel) for kernel in KERNELS])

    before = launches()
    q, dq = emulated.value_and_grad(p.critic, p.obs, p.particles, precision=precision)
    assert (launches() - before).tolist() == [0, 1]
    samples = emulated.sample(p.policy, p.obs, p.noise, 3, precision=precision)
    exact_q, exact_dq = reference.value_and_grad(exact.critic, exact.obs, exact.particles)
    expected(precision, exact_q, plain_torch.value, p).check(q)
    expected(precision, exact_dq, plain_torch.gradient, p, "mean").check(dq)
    assert relative_error(samples, reference.sample(exact.policy, exact.obs, exact.noise, 3)) < 0.01 * SHARES[precision]
