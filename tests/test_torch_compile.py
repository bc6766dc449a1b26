"""Under torch.compile the library's calls stay whole: one graph, eager's results, today's weights."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from problems import make_problem
from test_mlp_torch import inputs, sequential

import vgf_kernels.torch as vgf
from vgf_kernels import MLP, FlowConfig
from vgf_kernels.torch import ops

CONFIG = FlowConfig(num_steps=2, learning_rate=0.1, alpha=0.2)
THROUGH_THE_SMALLEST = replace(CONFIG, aggregate="min", bandwidth_grad=True)
PROBLEM = make_problem(B=12, N=6, A=2, O=3, hidden=(16, 9))
TENSORS = {
    name: torch.from_numpy(getattr(PROBLEM, name))
    for name in ("obs", "particles", "noise", "select_noise", "reward", "mask")
}
CALLS = {
    "value": lambda p, t: vgf.value(p.critic, t["obs"], t["particles"]),
    "value_and_grad": lambda p, t: vgf.value_and_grad(p.critic, t["obs"], t["particles"], "min"),
    "direction": lambda p, t: vgf.direction(p.critic, t["obs"], t["particles"], CONFIG),
    "flow": lambda p, t: vgf.flow(p.critic, t["obs"], t["particles"], CONFIG),
    "trajectory": lambda p, t: vgf.flow(p.critic, t["obs"], t["particles"], CONFIG, trajectory=True),
    "flow of no steps": lambda p, t: (
        vgf.flow(p.critic, t["obs"], t["particles"], replace(CONFIG, num_steps=0)) + 0
    ),
    "fixed bandwidth": lambda p, t: vgf.flow(
        p.critic, t["obs"], t["particles"], replace(CONFIG, bandwidth=0.5, clip=None, optimizer="sgd")
    ),
    "no kernel": lambda p, t: vgf.flow(p.critic, t["obs"], t["particles"], replace(CONFIG, kernel=None)),
    "sample": lambda p, t: vgf.sample(p.policy, t["obs"], t["noise"], 3),
    "sample without clip": lambda p, t: vgf.sample(p.policy, t["obs"], t["noise"], 3, None),
    "select": lambda p, t: vgf.select(t["select_noise"]),
    "act": lambda p, t: vgf.act(p.critic, p.policy, t["obs"], t["noise"], 3, CONFIG),
    "act by softmax": lambda p, t: vgf.act(
        p.critic,
        p.policy,
        t["obs"],
        t["noise"],
        3,
        CONFIG,
        "softmax",
        temperature=0.5,
        select_noise=t["select_noise"],
    ),
    "td_target": lambda p, t: vgf.td_target(
        p.critic, p.target_critic, p.policy, t["obs"], t["noise"], t["reward"], t["mask"], 0.9, 3, CONFIG
    ),
    "act on the smallest critic": lambda p, t: vgf.act(
        p.critic, p.policy, t["obs"], t["noise"], 3, THROUGH_THE_SMALLEST, aggregate="min"
    ),
    "td_target of the smallest critic and largest particle": lambda p, t: vgf.td_target(
        p.critic, p.target_critic, p.policy, t["obs"], t["noise"], t["reward"], t["mask"], 0.9, 3,
        THROUGH_THE_SMALLEST, "min", "max",
    ),  # fmt: skip
    "transport": lambda p, t: vgf.transport(lambda x: x.square() - x, t["particles"], CONFIG),
}


def compiled(function, backend="aot_eager"):
    torch.compiler.reset()
    return torch.compile(function, fullgraph=True, backend=backend)


def pairs(got, wanted):
    return zip(got, wanted, strict=True) if isinstance(got, tuple) else [(got, wanted)]


@pytest.mark.parametrize("name", CALLS)
def test_one_graph_and_eagers_result(name):
    def function(tensors):
        return CALLS[name](PROBLEM, tensors)

    for got, wanted in pairs(compiled(function)(TENSORS), function(TENSORS)):
        assert torch.equal(got, wanted)


def test_inductor():
    """The default backend, on a training step's worth of calls with operations between and around them."""

    def function(obs, noise, reward, mask):
        p = PROBLEM
        start = vgf.sample(p.policy, obs * 0.5, noise.clamp(-2, 2), 3)
        moved = vgf.flow(p.critic, obs * 0.5, start, CONFIG)
        return reward + mask * vgf.value(p.target_critic, obs * 0.5, moved).amin(0).mean(1)

    arguments = [TENSORS[name] for name in ("obs", "noise", "reward", "mask")]
    torch.testing.assert_close(compiled(function, "inductor")(*arguments), function(*arguments))


def test_gradients_in_a_graph():
    module = sequential("silu", "pre")
    mlp = MLP.from_torch([module, module])
    obs, x = inputs()

    def function(x):
        q = vgf.value(mlp, obs, x.tanh())
        return torch.logsumexp(q, dim=0).square().mean()

    def gradient(f):
        leaf = x.clone().requires_grad_()
        f(leaf).backward()
        return leaf.grad

    torch.testing.assert_close(gradient(compiled(function)), gradient(function))


def test_a_score_with_parameters_is_a_constant_in_a_graph_too():
    score = torch.nn.Linear(2, 2)

    def function(x):
        return vgf.transport(score, x, CONFIG)

    got, wanted = compiled(function)(TENSORS["particles"]), function(TENSORS["particles"])
    assert torch.equal(got, wanted)
    assert not got.requires_grad and not wanted.requires_grad


@pytest.mark.parametrize("skipped", [False, True])
@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_a_score_that_breaks_the_graph(backend, skipped):
    """Below the break, or a function that it skips, torch.compile meets the engine's own functions, which it must not take apart; the score's memory, a
    slice of what autograd returned, would be free by the time that the engine reads it.
    """
    network = sequential(widths=(5, 16, 1))

    def score(x):
        x.requires_grad_()
        states = TENSORS["obs"][:, None].expand(-1, x.shape[1], -1)
        return torch.autograd.grad(network(torch.cat([states, x], -1)).sum(), x)[0]

    transport = torch.compiler.disable(vgf.transport, recursive=False) if skipped else vgf.transport

    def move(x):
        return transport(score, x, replace(CONFIG, num_steps=3))

    wanted = move(TENSORS["particles"])
    broken = torch.compile(move, backend=backend)
    for _ in range(3):
        torch.testing.assert_close(broken(TENSORS["particles"]), wanted, rtol=0, atol=1e-5)


def test_weights_that_change_after_compiling():
    module = sequential("relu", "pre")
    mlp = MLP.from_torch(module)
    obs, x = inputs()

    def function(obs, x):
        return vgf.value_and_grad(mlp, obs, x)[1]

    fast = compiled(function)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    seen = []
    for _ in range(3):
        seen.append(fast(obs, x))
        assert torch.equal(seen[-1], function(obs, x))
        module(torch.ones(3, 8)).sum().backward()
        optimizer.step()
    for p in module.parameters():
        p.data.mul_(0.9)
    seen.append(fast(obs, x))
    assert torch.equal(seen[-1], function(obs, x))
    assert not any(torch.equal(a, b) for a, b in itertools.pairwise(seen))


def test_weights_that_change_inside_the_graph():
    """A write in the graph comes before a call that follows it, and after one before it."""
    module = sequential("relu", "pre")
    mlp = MLP.from_torch(module)
    obs, x = inputs()

    def function(obs, x):
        before = vgf.value(mlp, obs, x)
        with torch.no_grad():
            module[0].weight.mul_(0.5)
        return before, vgf.value(mlp, obs, x)

    state = {key: value.clone() for key, value in module.state_dict().items()}
    wanted = function(obs, x)
    module.load_state_dict(state)
    for got, eager in zip(compiled(function)(obs, x), wanted):
        assert torch.equal(got, eager)


def test_another_number_of_steps_compiles_nothing_anew():
    """The transport budget is free to change at test time."""

    def function(obs, x, config):
        return vgf.flow(PROBLEM.critic, obs, x, config)

    fast = compiled(function)
    obs, x = TENSORS["obs"], TENSORS["particles"]
    for steps in (1, 3):  # the second time torch learns that the number varies
        fast(obs, x, replace(CONFIG, num_steps=steps))
    with torch.compiler.set_stance("fail_on_recompile"):
        for steps in (2, 5, 10):
            config = replace(CONFIG, num_steps=steps)
            assert torch.equal(fast(obs, x, config), function(obs, x, config))


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("field", ["alpha", "learning_rate", "bandwidth"])
def test_another_number_in_a_config_compiles_nothing_anew(field, backend):
    """A sweep of more values than a function may be compiled anew for."""

    def function(obs, x, config):
        return vgf.flow(PROBLEM.critic, obs, x, config) + 0

    fast = compiled(function, backend)
    obs, x = TENSORS["obs"], TENSORS["particles"]
    equal = FlowConfig(num_steps=2, learning_rate=0.1, alpha=0.1)
    for number in (0.1, 0.25):
        fast(obs, x, replace(equal, **{field: number}))
    with torch.compiler.set_stance("fail_on_recompile"):
        for number in (0.2, 1 / 3, 1e-30, 2.0, 1e30):
            config = replace(equal, **{field: number})
            assert torch.equal(fast(obs, x, config), function(obs, x, config)), number


def test_a_config_made_in_the_graph():
    def function(obs, x, alpha):
        made = replace(FlowConfig(num_steps=3, alpha=alpha, bandwidth=0.5), learning_rate=0.3)
        return vgf.flow(PROBLEM.critic, obs, x, made) + 0

    fast = compiled(function, "inductor")
    for alpha in (0.1, 0.25, 0.7):
        arguments = (TENSORS["obs"], TENSORS["particles"], alpha)
        assert torch.equal(fast(*arguments), function(*arguments))


def test_another_batch_size():
    def function(obs, x):
        return vgf.flow(PROBLEM.critic, obs, x, CONFIG)

    fast = compiled(function)
    for B in (4, 3, 2):
        obs, x = TENSORS["obs"][:B], TENSORS["particles"][:B]
        assert torch.equal(fast(obs, x), function(obs, x))


def test_bad_input_is_refused_in_a_graph_too():
    def function(obs, x):
        return vgf.flow(PROBLEM.critic, obs, x, CONFIG)

    with pytest.raises(Exception, match="expected the same number of states B"):
        compiled(function)(TENSORS["obs"][:2], TENSORS["particles"])


class TestOperators:
    """torch.library.opcheck: schema, fake tensors, autograd registration and tracing with dynamic shapes."""

    module = sequential("silu", "pre", widths=(5, 9, 1))
    policy = sequential("silu", widths=(6, 9, 2))
    live, live_policy = MLP.from_torch([module, module]), MLP.from_torch(policy)
    engine = ("cpu", None)

    @pytest.fixture(params=["frozen", "live"])
    def networks(self, request):
        if request.param == "live":
            return ops.pack_mlp(self.live), ops.pack_mlp(self.live_policy)
        return ops.pack_mlp(PROBLEM.critic), ops.pack_mlp(PROBLEM.policy)

    @pytest.mark.parametrize(
        "name",
        ["value", "value_and_grad", "jacobian", "direction", "flow", "sample", "act", "td_target", "update"],
    )
    def test_opcheck(self, networks, name):
        critic, policy = networks
        t, config = TENSORS, ops.pack_config(CONFIG)
        states = (t["obs"], t["particles"])
        noisy = (t["obs"], t["noise"])
        arguments = {
            "value": (*critic, 2, *states),
            "value_and_grad": (*critic, 2, *states, "mean"),
            "jacobian": (*critic, 2, t["obs"], t["particles"].clone().requires_grad_()),
            "direction": (*critic, *states, *config),
            "flow": (*critic, *states, True, *config),
            "sample": (*policy, *noisy, 3, [-1.0, 1.0]),
            "act": (*critic, *policy, *noisy, 3, "max", "mean", 1.0, None, *config),
            "td_target": (
                *critic,
                *critic,
                *policy,
                *noisy,
                t["reward"],
                t["mask"],
                0.9,
                3,
                "mean",
                "max",
                *config,
            ),
            "update": (t["particles"], t["noise"], t["noise"] * 0, t["noise"] * 0, 1, *config),
        }[name]
        torch.library.opcheck(getattr(torch.ops.vgf, name).default, (*arguments, *self.engine))


def test_operators_trace_for_gpu_tensors():
    """Shapes, dtypes and devices for a compiler, of tensors on a GPU that need not be there."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    critic, policy = ops.pack_mlp(PROBLEM.critic), ops.pack_mlp(PROBLEM.policy)
    config, engine = ops.pack_config(CONFIG), ("triton", None)
    with FakeTensorMode():
        obs, x = torch.empty(4, 3, device="cuda"), torch.empty(4, 6, 2, device="cuda")
        reward = torch.empty(4, device="cuda")
        results = {
            (2, 4, 6): ops.value(*critic, 2, obs, x, *engine),
            (3, 4, 6, 2): ops.flow(*critic, obs, x, True, *config, *engine),
            (4, 6, 2): ops.sample(*policy, obs, x, 3, None, *engine),
            (4, 2): ops.act(*critic, *policy, obs, x, 3, "max", "mean", 1.0, None, *config, *engine),
            (4,): ops.td_target(
                *critic, *critic, *policy, obs, x, reward, reward, 0.9, 3, "mean", "max", *config, *engine
            ),
        }
    for shape, result in results.items():
        assert (tuple(result.shape), result.device.type, result.dtype) == (shape, "cuda", torch.float32)


def test_the_engine_asked_for_computes_a_graph():
    p = PROBLEM.at(np.float64)
    obs, x = torch.from_numpy(p.obs), torch.from_numpy(p.particles)

    def value(obs, x):
        return vgf.value(p.critic, obs, x, backend="reference")

    assert torch.equal(compiled(value)(obs, x), value(obs, x))


def test_the_precision_asked_for_is_a_graphs():
    obs, x = TENSORS["obs"], TENSORS["particles"]

    def flow(obs, x, precision="bf16"):
        return vgf.flow(PROBLEM.critic, obs, x, CONFIG, precision=precision)

    assert torch.equal(compiled(flow)(obs, x), flow(obs, x))
    assert not torch.equal(flow(obs, x), flow(obs, x, None))


def test_the_temperature_is_a_graphs():
    def act(tensors, temperature=0.01):
        return vgf.act(
            PROBLEM.critic, PROBLEM.policy, tensors["obs"], tensors["noise"], 3, CONFIG, "softmax",
            temperature=temperature, select_noise=tensors["select_noise"],
        )  # fmt: skip

    assert not torch.equal(act(TENSORS), act(TENSORS, 1.0))
    assert torch.equal(compiled(act)(TENSORS), act(TENSORS))


@pytest.mark.parametrize("name", ["direction", "flow", "sample", "act by softmax", "td_target", "transport"])
def test_what_is_a_constant_in_a_graph(name):
    leaves = {key: tensor.clone().requires_grad_() for key, tensor in TENSORS.items()}
    assert not compiled(lambda tensors: CALLS[name](PROBLEM, tensors))(leaves).requires_grad


def test_a_loss_of_values_beside_their_gradient():
    """The backward pass of a graph runs for dq, too, on which nothing depends."""
    obs, x = TENSORS["obs"], TENSORS["particles"].clone().requires_grad_()
    q, dq = compiled(lambda obs, x: vgf.value_and_grad(PROBLEM.critic, obs, x))(obs, x)
    q.mean(0).sum().backward()
    torch.testing.assert_close(x.grad, dq.detach())
