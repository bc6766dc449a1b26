"""The host's side of the CUDA engine, on the emulator: launches, streams, workspaces, what is kept, read and refused."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accuracy import relative_error
from problems import make_mlp, make_problem
from test_accuracy import CONFIG
from test_changed_weights import strided
from test_cuda_emulated import THROUGH, act, direction, flow, gradient, sample, td_target
from test_layouts import torch_wider

import vgf_kernels.torch as vgf
from vgf_kernels import MLP, FlowConfig, reference
from vgf_kernels.mlp import NORMS


def test_launches(emulated, emulator):
    """A function is one launch, where a tile holds a state; a live network adds one, which packs it."""
    p = make_problem(N=10)

    def launches(function, *args):
        kernels = ("tile_kernel", "pack_kernel", "count_kernel", "interact_kernel", "step_kernel", "judge_kernel")
        before = sum(map(emulator.launches_of, kernels))
        function(*args)
        return sum(map(emulator.launches_of, kernels)) - before

    critic, target, policy = p.critic, p.target_critic, p.policy
    target_of = (p.obs, p.noise, p.reward, p.mask, 0.9, 4, CONFIG)
    for networks in ("packed at the first call", "packed already"):
        counts = [
            launches(emulated.value, critic, p.obs, p.particles),
            launches(emulated.value_and_grad, critic, p.obs, p.particles),
            launches(emulated.direction, critic, p.obs, p.particles, THROUGH),
            launches(emulated.flow, critic, p.obs, p.particles, CONFIG),
            launches(emulated.sample, policy, p.obs, p.noise, 10),
            launches(emulated.act, critic, policy, p.obs, p.noise, 4, CONFIG),
            launches(emulated.td_target, critic, target, policy, *target_of),
        ]
        assert networks == "packed at the first call" or counts == [1] * 7
    live = [MLP.from_torch(list(p.critic.to_torch())), MLP.from_torch(p.policy.to_torch())]
    assert launches(emulated.flow, live[0], p.obs, p.particles, CONFIG) == 2
    assert launches(emulated.td_target, live[0], live[0], live[1], *target_of) == 4


def test_a_direction_of_large_states_updates_nothing(emulated, emulator):
    p = make_problem(N=70)
    before = emulator.launches_of("step_kernel")
    direction(emulated, p)
    assert emulator.launches_of("step_kernel") == before


def test_a_workspace_grows_with_particles_not_with_pairs(emulator):
    module = emulator.modules["_cuda"]
    network = module.Network([5, 16, 1], 1, "relu", "none", 0.0, 3, True, True, "fp32")
    options = module.FlowOptions(1, 0.1, 1.0, "mean", "rbf", "median", True, "adam", None)

    def size(N, B=1):
        return module.direction(network, 256, 256, 256, options, (B, N, 3, 2), (0, 0, 0))

    many, more = size(10**6), size(2 * 10**6)
    assert more - many < 10**6 * 100  # bytes a particle
    assert size(100, B=2000) - size(100, B=1000) < 1000 * 100 * 100  # a state's counts are not kept
    with pytest.raises(ValueError, match="at most 67108864 particles a state with the median bandwidth, got 67108865"):
        size(2**26 + 1)
    with pytest.raises(ValueError, match="at most 1073741824 particles a state, got 1073741825"):
        size(2**30 + 1)
    assert size(2**26)
    fixed = module.FlowOptions(1, 0.1, 1.0, "mean", "rbf", 0.5, False, "adam", None)
    assert module.direction(network, 256, 256, 256, fixed, (1, 2**30, 3, 2), (0, 0, 0))


@pytest.mark.parametrize(
    ("driver", "devices", "missing"),
    [
        (0, [], "no CUDA driver was found"),
        (13000, [], "the CUDA driver shows no device"),
        (13000, [("T4", 7, 5)], "it needs a GPU of compute capability 8.0 or newer, found T4 (7.5)"),
        (13000, [("T4", 7, 5), ("A100", 8, 0)], ""),
    ],
    ids=["no driver", "no device", "an old device", "an old and a new one"],
)
def test_which_devices_will_do(monkeypatch, driver, devices, missing):
    from vgf_kernels import cuda

    module = SimpleNamespace(driver_version=lambda: driver, devices=lambda: devices)
    monkeypatch.setattr(cuda, "_cuda", module, raising=False)
    monkeypatch.setattr(cuda, "_absent", None)
    monkeypatch.setattr(cuda, "_without_device", cuda._without_device.__wrapped__)
    assert (cuda.missing() or "").startswith(missing) and bool(cuda.missing()) == bool(missing)


def test_devices_that_cannot_be_asked_are_asked_again(monkeypatch):
    from vgf_kernels import cuda

    class Module:
        def driver_version(self):
            return 12040

        def devices(self):
            if not ready:
                raise RuntimeError("vgf cuda engine: cudaGetDeviceCount: CUDA driver version is insufficient")
            return [("a GPU", 9, 0)]

    ready = False
    monkeypatch.setattr(cuda, "_cuda", Module(), raising=False)
    monkeypatch.setattr(cuda, "_absent", None)
    assert cuda.missing().endswith("CUDA driver version is insufficient (the driver is for CUDA 12.4)")
    ready = True
    assert cuda.missing() is None


def test_too_small_a_workspace_is_refused(emulated, monkeypatch):
    from vgf_kernels import cuda

    p = make_problem()
    monkeypatch.setattr(
        cuda._Call, "run",
        lambda call, function, *args: getattr(cuda._cuda, function)(*args, call._sizes, (64, 128, 0)),
    )  # fmt: skip
    with pytest.raises(ValueError, match="workspace: expected [0-9]+ bytes, got 128"):
        emulated.value(p.critic, p.obs, p.particles)


def test_what_the_module_refuses(emulator):
    """A workspace one byte too small, or off its alignment; networks that do not fit the call."""
    module = emulator.modules["_cuda"]
    memory = np.zeros(1 << 18, np.float32)
    at = memory.ctypes.data + -memory.ctypes.data % 256
    weights = [(at, 16, 1, at, 0, 0), (at, 1, 1, at, 0, 0)]

    def network(inputs, outputs, O, precision="fp32"):
        made = module.Network([inputs, 16, outputs], 1, "relu", "none", 0.0, O, outputs == 1, False, precision)
        return made.packed(weights, at, 0)

    value_network, critic, bf16, policy = network(5, 1, 3), network(4, 1, 2), network(4, 1, 2, "bf16"), network(5, 2, 2)
    options = module.FlowOptions(1, 0.1, 1.0, "mean", "rbf", "median", False, "adam", None)
    sizes = (3, 4, 3, 2)

    def value(*workspace):
        return module.value(value_network, at, at, at, sizes, workspace)

    needed = value(0, 0, 0)
    with pytest.raises(ValueError, match=f"workspace: expected {needed} bytes, got {needed - 1}"):
        value(at, needed - 1, 0)
    with pytest.raises(ValueError, match="workspace: expected memory aligned to 256 bytes"):
        value(at + 128, needed, 0)
    with pytest.raises(ValueError, match="a packed network: expected memory aligned to 16 bytes"):
        value_network.packed(weights, at + 8, 0)
    with pytest.raises(ValueError, match="the networks of a call must be packed in one precision"):
        module.act(bf16, policy, 256, 256, 0, 256, 2, options, "max", 1.0, "mean", (3, 4, 2, 2), (0, 0, 0))
    with pytest.raises(ValueError, match="select_noise is missing"):
        module.act(critic, policy, 256, 256, 0, 256, 2, options, "softmax", 1.0, "mean", (3, 4, 2, 2), (0, 0, 0))
    for call in (
        lambda: module.direction(value_network, 256, 256, 256, options, sizes, (0, 0, 0)),
        lambda: module.flow(value_network, 256, 256, 256, False, options, sizes, (0, 0, 0)),
        lambda: module.value_and_grad(value_network, 256, 256, 256, 256, 0, "mean", sizes, (0, 0, 0)),
        lambda: module.value_and_grad(value_network, 256, 256, 256, 0, 256, "mean", sizes, (0, 0, 0)),
    ):
        with pytest.raises(ValueError, match="the critic was packed without what its gradient needs"):
            call()
    for O, A in ((4, 2), (3, 3), (2, 3)):  # the last has the critic's 5 inputs, but packed as others
        with pytest.raises(ValueError, match=f"expected a network from {O + A} inputs, of which {O} are observations, to 1 outp"):
            module.value(value_network, 256, 256, 256, (3, 4, O, A), (0, 0, 0))
    for O, A in ((3, 2), (1, 3)):
        with pytest.raises(ValueError, match=f"expected a network from {O + A + 1} inputs, .* to {A} outputs, got one"):
            module.sample(policy, 256, 256, 256, 2, None, (3, 4, O, A), (0, 0, 0))
    for O in (5, -1):
        with pytest.raises(ValueError, match=f"a network of 5 inputs cannot take {O} observations and an action"):
            network(5, 1, O)


@pytest.mark.parametrize("N", [10, 70])
def test_all_work_is_on_the_current_stream(emulated, emulator, monkeypatch, N):
    from vgf_kernels import cuda

    monkeypatch.setattr(cuda, "_place", lambda device: (nullcontext(), 7))
    monkeypatch.setattr(cuda, "_record", lambda memory: None)
    p = make_problem(N=N)
    calls = (
        lambda: emulated.value(p.critic, p.obs, p.particles),  # which packs
        lambda: flow(emulated, p, THROUGH),
        lambda: td_target(emulated, p),
        lambda: emulated.transport(lambda x: x * x - x, p.particles, CONFIG),
    )
    for call in calls:
        before, others = emulator.work_on(7), emulator.work_on(0)
        call()
        assert emulator.work_on(7) > before and emulator.work_on(0) == others


def test_what_is_kept_of_a_frozen_network(emulated, emulator, monkeypatch):
    """Packed once, and waited for, before it is captured. Other streams that read it are noted."""
    from vgf_kernels import cuda

    p, seen = make_problem(), []
    frozen, live = p.critic, MLP.from_torch(list(p.critic.to_torch()))
    monkeypatch.setattr(cuda, "_finish", lambda device: seen.append("finished"))
    monkeypatch.setattr(cuda, "_record", lambda memory: seen.append("recorded"))

    def value(critic, stream=0, capturing=False):
        monkeypatch.setattr(cuda, "_place", lambda device: (nullcontext(), stream))
        monkeypatch.setattr(cuda, "_capturing", lambda: capturing)
        seen.clear()
        before = emulator.launches_of("pack_kernel")
        emulated.value(critic, p.obs, p.particles)
        return emulator.launches_of("pack_kernel") - before, list(seen)

    with pytest.raises(RuntimeError, match="layer 0, W: it lies on the host, .*; call the function once before"):
        value(frozen, capturing=True)
    assert value(frozen) == (1, ["finished"])
    assert value(frozen) == value(frozen, capturing=True) == (0, [])
    assert value(frozen, stream=7) == (0, ["recorded"])
    assert value(live) == value(live, stream=7) == (1, [])


def test_one_network_in_several_roles(emulated):
    """Packed apart for every role and number of observations."""
    p = make_problem(B=3, N=4, A=2, O=2)
    x, network = p.particles, make_mlp(np.random.default_rng(1), (4, 16, 1), 1, "silu", "none")
    for run in (
        lambda f: f.value(network, p.obs, x),
        lambda f: f.value(network, np.concatenate([p.obs, p.obs[:, :1]], axis=1), x[..., :1]),
        lambda f: f.sample(network, p.obs, x[..., :1], 2, clip=None),
    ):
        assert relative_error(run(emulated), run(reference)) < 1e-5


class Viewed:
    """The torch frontend given every second number of larger arrays."""

    def __init__(self, emulated) -> None:
        self._engine = emulated

    def __getattr__(self, name):
        def views(a):
            return torch_wider(a) if isinstance(a, np.ndarray) else a

        def call(*args, **kwargs):
            return getattr(self._engine, name)(*map(views, args), **{key: views(a) for key, a in kwargs.items()})

        return call


@pytest.mark.parametrize("N", [4, 66])
def test_views(emulated, N):
    """Their copies live until the work is enqueued, although as large as what is allocated next."""
    p = make_problem(N=N, A=2, O=2 * N, hidden=(17,))
    for run in (
        gradient, direction, flow, sample, td_target,
        lambda f, p: act(f, p, "softmax"),
        lambda f, p: f.transport(lambda x: x * x - x, p.particles, CONFIG),
    ):  # fmt: skip
        np.testing.assert_array_equal(run(Viewed(emulated), p), run(emulated, p))


@pytest.mark.parametrize("norm", NORMS)
def test_strided_weights(emulated, norm):
    p = make_problem(norm=norm)
    modules = [[strided(m) for m in networks] for networks in (p.critic.to_torch(), [p.policy.to_torch()])]
    views = replace(p, critic=MLP.from_torch(modules[0]), policy=MLP.from_torch(modules[1][0]))
    for run in (gradient, sample):
        np.testing.assert_array_equal(run(emulated, views), run(emulated, p))


def test_weights_of_another_dtype_are_refused(emulated):
    p = make_problem()
    with pytest.raises(
        TypeError, match="weights: member 0, layer 0, W: the cuda engine computes float32, got float64"
    ):
        emulated.value(p.at(np.float64).critic, p.obs, p.particles)


def test_weights_on_another_device_are_refused(emulated):
    p = make_problem()
    critic = MLP.from_torch([module.to("meta") for module in p.critic.to_torch()])
    with pytest.raises(
        ValueError, match="weights: member 0, layer 0, W: expected the device of the arrays, cpu, got meta; move the module"
    ):
        emulated.value(critic, p.obs, p.particles)


def test_none_follows_the_matmul_precision(emulated):
    p = make_problem()
    full, low = (emulated.value(p.critic, p.obs, p.particles, precision=name) for name in ("fp32", "bf16"))
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        np.testing.assert_array_equal(emulated.value(p.critic, p.obs, p.particles), low)
    finally:
        torch.set_float32_matmul_precision(before)
    np.testing.assert_array_equal(emulated.value(p.critic, p.obs, p.particles), full)


@pytest.mark.skipif(not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="torch has no such setting yet")
def test_none_follows_the_newer_setting(emulated):
    p = make_problem()
    full, low = (emulated.value(p.critic, p.obs, p.particles, precision=name) for name in ("fp32", "tf32"))
    before = torch.backends.cuda.matmul.fp32_precision
    try:
        for name, wanted in (("tf32", low), ("ieee", full)):
            torch.backends.cuda.matmul.fp32_precision = name
            np.testing.assert_array_equal(emulated.value(p.critic, p.obs, p.particles), wanted)
    finally:
        torch.backends.cuda.matmul.fp32_precision = before
    assert not np.array_equal(full, low)
    cpu = torch.backends.mkldnn.matmul
    before = cpu.fp32_precision
    try:
        cpu.fp32_precision = "bf16"  # which says nothing of GPUs, but the older setting cannot be read then
        np.testing.assert_array_equal(emulated.value(p.critic, p.obs, p.particles), full)
    finally:
        cpu.fp32_precision = before


def test_the_gradient_of_values_weighed_by_critic(emulated):
    """Every critic's own, by autograd."""
    p = make_problem()
    obs, x = torch.from_numpy(p.obs), torch.from_numpy(p.particles).requires_grad_()
    weights = torch.tensor([1.0, 3.0])[:, None, None]
    got, wanted = (
        torch.autograd.grad((weights * vgf.value(p.critic, obs, x, backend=backend, precision="fp32")).sum(), x)[0]
        for backend in ("cuda", "cpu")
    )
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


def test_a_view_that_is_negative(emulated):
    p = make_problem()
    obs, x = torch.from_numpy(p.obs), torch.from_numpy(p.particles)
    assert torch.equal(vgf.value(p.critic, obs, torch._neg_view(x), backend="cuda"), vgf.value(p.critic, obs, -x, backend="cuda"))


def test_a_change_of_live_weights_is_seen(emulated):
    torch.manual_seed(0)  # of some weights the value is near zero, and its relative error large
    module = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    critic = MLP.from_torch(module)
    obs, x = np.ones((2, 2), np.float32), np.ones((2, 4, 3), np.float32)
    before = emulated.value(critic, obs, x)
    module[0].weight.data.mul_(0.5)
    after = emulated.value(critic, obs, x)
    with torch.no_grad():
        wanted = module(torch.ones(2, 4, 5))[..., 0].numpy()[None]
    assert relative_error(after, wanted) < 1e-6 < relative_error(before, wanted)


def test_the_flow_takes_no_gradient_of_no_steps(emulated):
    p = make_problem()
    config = FlowConfig(num_steps=0)
    np.testing.assert_array_equal(emulated.flow(p.critic, p.obs, p.particles, config), p.particles)
