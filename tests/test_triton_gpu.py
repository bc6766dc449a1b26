"""What only a GPU shows of the Triton engine: graphs, streams, devices, compiled kernels, torch.compile."""

from __future__ import annotations

import pytest
import torch
from problems import make_problem
from test_mlp_torch import sequential

import vgf_kernels.torch as vgf
import vgf_kernels.triton
from vgf_kernels import MLP, FlowConfig

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(vgf_kernels.triton.missing() is not None, reason=str(vgf_kernels.triton.missing())),
]
CONFIG = FlowConfig(num_steps=2, learning_rate=0.1, alpha=0.2)
TRITON = {"backend": "triton", "precision": "fp32"}


@pytest.fixture(autouse=True)
def _untuned(monkeypatch):
    """The default configurations: measuring them is another test's matter."""
    monkeypatch.setenv("VGF_TRITON_AUTOTUNE", "0")


def networks(device="cuda"):
    """A live critic and policy with O = 3 and A = 2, and states for them."""
    critic = [sequential("relu", "pre", widths=(5, 64, 64, 1)).to(device) for _ in range(2)]
    policy = sequential("relu", widths=(6, 64, 2)).to(device)
    p = make_problem(B=20, N=6, A=2, O=3)
    arrays = {
        name: torch.from_numpy(getattr(p, name)).to(device) for name in ("obs", "noise", "reward", "mask")
    }
    return critic, policy, arrays


def target(critic, policy, a):
    return vgf.td_target(
        critic, critic, policy, a["obs"], a["noise"], a["reward"], a["mask"], 0.9, 3, CONFIG, "min", **TRITON
    )


def test_a_replayed_graph_sees_new_weights_and_inputs():
    modules, module, a = networks()
    critic, policy = MLP.from_torch(modules), MLP.from_torch(module)
    target(critic, policy, a)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = target(critic, policy, a)
    for _ in range(2):
        with torch.no_grad():
            for parameter in (*module.parameters(), *(p for m in modules for p in m.parameters())):
                parameter.mul_(0.9)
        a["noise"].normal_()
        graph.replay()
        assert torch.equal(out, target(critic, policy, a))


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_frozen_network_is_not_packed_by_a_graph(monkeypatch, elsewhere):
    """Whichever stream it was packed on; a graph is captured on another."""
    from vgf_kernels.triton import packed

    modules, module, a = networks()
    critic, policy = MLP.from_torch(modules).freeze(), MLP.from_torch(module).freeze()
    with torch.cuda.stream(torch.cuda.Stream() if elsewhere else torch.cuda.current_stream()):
        wanted = target(critic, policy, a)
    torch.cuda.synchronize()
    monkeypatch.setattr(packed, "launch", None)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = target(critic, policy, a)
    out.zero_()
    graph.replay()
    assert torch.equal(out, wanted)


def test_a_size_not_called_before_a_capture_is_called_after_it():
    """A kernel that a capture could not load is loaded by the next call."""
    modules, _, a = networks()
    critic = MLP.from_torch(modules)
    vgf.value(critic, a["obs"], a["noise"], **TRITON)  # after which the capture lacks nothing but its kernel
    config = FlowConfig(num_steps=2, aggregate="min", optimizer="sgd", kernel=None, clip=None)  # no other test's
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            vgf.flow(critic, a["obs"], a["noise"], config, **TRITON)
    except RuntimeError as error:
        assert "call the function once with arrays of these sizes" in str(error) or "captur" in str(error)
    got = vgf.flow(critic, a["obs"], a["noise"], config, **TRITON)
    host = MLP.from_torch([m.cpu() for m in modules])
    wanted = vgf.flow(host, a["obs"].cpu(), a["noise"].cpu(), config, backend="cpu")
    torch.testing.assert_close(got.cpu(), wanted, rtol=1e-4, atol=1e-4)


def test_capturing_before_the_first_call_says_what_to_do():
    modules, _, a = networks()
    critic = MLP.from_torch(modules)
    graph = torch.cuda.CUDAGraph()
    with pytest.raises(RuntimeError, match="call the function once"), torch.cuda.graph(graph):
        vgf.value(critic, a["obs"], a["noise"], **TRITON)


def test_nothing_waits_for_the_gpu():
    modules, module, a = networks()
    critic, policy = MLP.from_torch(modules), MLP.from_torch(module)
    wanted = target(critic, policy, a)
    torch.cuda.set_sync_debug_mode("error")
    try:
        got = target(critic, policy, a)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(got, wanted)


def test_the_current_stream_is_used():
    modules, module, a = networks()
    critic, policy = MLP.from_torch(modules), MLP.from_torch(module)
    wanted = target(critic, policy, a)
    noise, stream = a["noise"].clone(), torch.cuda.Stream()
    a["noise"].zero_()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)  # the copy below is late; a launch elsewhere would read zeros
        a["noise"].copy_(noise)
        got = target(critic, policy, a)
    stream.synchronize()
    assert torch.equal(got, wanted)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_devices_in_turn():
    results = []
    for _ in range(2):
        for device in ("cuda:0", "cuda:1"):
            torch.manual_seed(0)
            modules, module, a = networks(device)
            results.append(target(MLP.from_torch(modules), MLP.from_torch(module), a))
            assert str(results[-1].device) == device
    assert all(torch.equal(results[0].cpu(), each.cpu()) for each in results)


def test_networks_elsewhere_are_refused():
    modules, _, a = networks()
    critic = MLP.from_torch([m.cpu() for m in modules])
    with pytest.raises(
        ValueError, match="expected the device of the arrays, cuda:0, got cpu; move the module"
    ):
        vgf.value(critic, a["obs"], a["noise"], **TRITON)


def test_another_number_of_steps_compiles_nothing():
    from vgf_kernels.triton import launch

    modules, _, a = networks()
    critic = MLP.from_torch(modules)
    vgf.flow(critic, a["obs"], a["noise"], CONFIG, **TRITON)
    known = len(launch._compiled)
    for steps in (0, 1, 7):
        vgf.flow(
            critic, a["obs"], a["noise"], FlowConfig(num_steps=steps, learning_rate=0.3, alpha=2.0), **TRITON
        )
    vgf.flow(critic, a["obs"][:7], a["noise"][:7], CONFIG, **TRITON)
    assert len(launch._compiled) == known


def test_whole_numbers_are_numbers_too():
    modules, _, a = networks()
    critic = MLP.from_torch(modules)
    fractions = FlowConfig(learning_rate=1.0, alpha=2.0, bandwidth=1.0)
    wanted = vgf.flow(critic, a["obs"], a["noise"], fractions, **TRITON)
    whole = FlowConfig(learning_rate=1, alpha=2, bandwidth=1)
    assert torch.equal(vgf.flow(critic, a["obs"], a["noise"], whole, **TRITON), wanted)


def test_particles_at_odd_addresses():
    """A view that starts in the middle of 16 bytes gives what its copy gives."""
    modules, _, a = networks()
    critic = MLP.from_torch(modules)
    flat = torch.empty(a["noise"].numel() + 1, device="cuda")
    odd = flat[1:].view_as(a["noise"]).copy_(a["noise"])
    wanted = vgf.flow(critic, a["obs"], a["noise"], CONFIG, **TRITON)
    assert torch.equal(vgf.flow(critic, a["obs"], odd, CONFIG, **TRITON), wanted)


def test_under_torch_compile():
    modules, module, a = networks()
    critic, policy = MLP.from_torch(modules), MLP.from_torch(module)
    fast = torch.compile(lambda a: target(critic, policy, a).tanh(), fullgraph=True)
    torch.testing.assert_close(fast(a), target(critic, policy, a).tanh())


@pytest.mark.parametrize("freeze", [False, True])
def test_in_the_graphs_of_torch_compile(freeze):
    """Whose first run allocates in a graph's memory: what the engine keeps must not be there."""
    modules, module, a = networks()
    critic, policy = MLP.from_torch(modules), MLP.from_torch(module)
    if freeze:
        critic, policy = critic.freeze(), policy.freeze()
    wanted = target(*(m.freeze() for m in (critic, policy)), a).tanh()
    fast = torch.compile(lambda a: target(critic, policy, a).tanh(), fullgraph=True, mode="reduce-overhead")
    for _ in range(4):
        torch.compiler.cudagraph_mark_step_begin()
        torch.testing.assert_close(fast(a), wanted)


def test_a_million_particles():
    modules, _, a = networks()
    critic = MLP.from_torch(modules)
    obs, noise = a["obs"].repeat(5000, 1), a["noise"].repeat(5000, 1, 1)
    moved = vgf.flow(critic, obs, noise, CONFIG, **TRITON)
    wanted = vgf.flow(critic, a["obs"], a["noise"], CONFIG, **TRITON)
    torch.testing.assert_close(moved[-20:], wanted, rtol=1e-4, atol=1e-4)
