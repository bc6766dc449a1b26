"""A program that torch.export has written computes the same in another process, whatever networks that one has."""

from __future__ import annotations

import pytest
import torch
from processes import python, run
from test_mlp_torch import inputs, sequential
from torch.fx.experimental.proxy_tensor import make_fx

import vgf_kernels.torch as vgf
from vgf_kernels import MLP

AGENT = """
import sys
import torch
from torch import nn
from test_mlp_torch import sequential
import vgf_kernels.torch as vgf

A, O = 2, 3
CONFIG = vgf.FlowConfig(num_steps=3, learning_rate=0.2, alpha=0.3)

class Agent(nn.Module):
    def __init__(self, activation, seed):
        super().__init__()
        critics = [sequential(activation, "pre", (O + A, 16, 9, 1), seed + e, eps=1e-3, bias=False) for e in range(2)]
        for critic in critics:
            critic[0].bias = None
        self.critics, self.velocity = nn.ModuleList(critics), sequential(activation, "none", (O + A + 1, 12, A), seed)
        self.critic, self.policy = vgf.MLP.from_torch(self.critics), vgf.MLP.from_torch(self.velocity)

    def forward(self, obs, noise):
        x = vgf.sample(self.policy, obs, noise, 4)
        q, dq = vgf.value_and_grad(self.critic, obs, x)
        return vgf.act(self.critic, self.policy, obs, noise, 4, CONFIG), dq, vgf.flow(self.critic, obs, x, CONFIG)

def states(B):
    generator = torch.Generator().manual_seed(B)
    return torch.randn(B, O, generator=generator), torch.randn(B, 5, A, generator=generator)
"""
WRITE = """
class Frozen(nn.Module):
    def forward(self, obs, x):
        return vgf.value(frozen, obs, x)

agent = Agent("silu", 0)
frozen = agent.critic.freeze()
batch = torch.export.Dim("batch", min=2)
for strict in (False, True):
    export = lambda f: torch.export.export(f, states(6), dynamic_shapes=({0: batch}, {0: batch}), strict=strict)
    torch.export.save(export(agent), f"{sys.argv[1]}/agent{strict}.pt2")
    value = export(Frozen())
    assert torch.equal(value.module()(*states(9)), Frozen()(*states(9)))
    torch.export.save(value, f"{sys.argv[1]}/frozen{strict}.pt2")
torch.save(agent(*states(9)), sys.argv[1] + "/wanted.pt")
"""
READ = """
others = [Agent(activation, 7) for activation in ("gelu", "silu", "relu")]  # by handles the writer's networks, too
others += [other.critic.freeze() for other in others]
load = lambda name: torch.export.load(f"{sys.argv[1]}/{name}.pt2").module()
wanted = torch.load(sys.argv[1] + "/wanted.pt")
for strict in (False, True):
    program = load(f"agent{strict}")
    for _ in range(2):
        for got, expected in zip(program(*states(9)), wanted, strict=True):
            assert torch.equal(got, expected)
    with torch.no_grad():
        next(program.parameters()).mul_(2)
    assert not torch.equal(program(*states(9))[0], wanted[0])
    try:
        load(f"frozen{strict}")(*states(9))
        raise SystemExit("a network of another process was found")
    except RuntimeError as error:
        print(error)
"""


@pytest.mark.skipif(not hasattr(torch.compiler, "is_exporting"), reason="torch before 2.7 does not say that it exports")
def test_networks_of_modules_go_with_the_program_and_frozen_ones_say_that_they_do_not(tmp_path):
    for code in (WRITE, READ):
        done = python("-c", AGENT + code, str(tmp_path))
        assert done.returncode == 0, done.stderr
    refused = "the graph has a frozen MLP of another process, or one that is gone: expected one made by MLP.from_torch"
    assert done.stdout.count(refused) == 2


def exported(module, *arguments):
    return torch.export.export(module, arguments).module()


class Value(torch.nn.Module):
    def __init__(self, frozen=False):
        super().__init__()
        self.net = sequential("silu", "pre")
        self.critic = MLP.from_torch(self.net)
        if frozen:
            self.critic = self.critic.freeze()

    def forward(self, obs, x):
        return vgf.value(self.critic, obs, x)


def test_a_program_is_on_its_own_in_the_process_that_exported_it():
    """Whatever becomes of the module afterwards."""
    module = Value()
    wanted, program = module(*inputs()), exported(module, *inputs())
    module.critic.packed.clear()
    module.net[0].bias = None
    assert torch.equal(program(*inputs()), wanted)
    module.net[-1] = torch.nn.Linear(9, 1)
    assert torch.equal(program(*inputs()), wanted)


def test_an_exported_program_refuses_a_batch_of_nothing():
    """torch lets one pass, whatever the least is that the batch was declared with."""
    module = sequential()
    critic = vgf.MLP.from_torch(module)

    class Value(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.critic = module

        def forward(self, obs, x):
            return vgf.value(critic, obs, x)

    obs, x = inputs()
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(Value(), (obs, x), dynamic_shapes=({0: batch}, {0: batch})).module()
    assert torch.equal(program(obs[:4], x[:4]), vgf.value(critic, obs[:4], x[:4]))
    with pytest.raises((ValueError, RuntimeError, AssertionError)):
        program(obs[:0], x[:0])


def test_a_parameter_that_came_after_the_mlp_is_not_left_out():
    module = Value()
    module.net[0].bias = None
    with pytest.raises(ValueError, match="the module has other parameters than when its MLP was made"):
        exported(module, *inputs())(*inputs())


def test_a_last_bias_that_came_after_the_mlp_is_not_left_out():
    module = Value()
    module.net[-1].bias = None
    module.critic = MLP.from_torch(module.net)
    module.net[-1].bias = torch.nn.Parameter(torch.ones(1))
    with pytest.raises(ValueError, match="the module has other parameters than when its MLP was made"):
        exported(module, *inputs())(*inputs())


def test_a_frozen_network_of_a_parent_is_no_other_of_its_child():
    first, second = Value(frozen=True).critic, Value(frozen=True).critic
    assert first.description != second.description
    assert MLP.from_graph([], first.handle, first.description) is first
    with pytest.raises(RuntimeError, match="of another process, or one that is gone"):
        MLP.from_graph([], first.handle, second.description)


def test_a_network_of_another_process_is_not_the_one_of_its_handle_here():
    here, there = MLP.from_torch(sequential("silu")), MLP.from_torch(sequential("tanh"))
    assert MLP.from_graph(here.tensors(), here.handle, here.description).activation == "silu"
    assert MLP.from_graph(there.tensors(), here.handle, there.description).activation == "tanh"


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("trace", [exported, lambda module, *arguments: make_fx(module)(*arguments)])
@pytest.mark.parametrize("function", [vgf.value, lambda *arguments: vgf.value_and_grad(*arguments)[0]])
def test_gradients_of_a_program_traced_without_any(function, trace, frozen):
    class Module(Value):
        def forward(self, obs, x):
            return function(self.critic, obs, x)

    module = Module(frozen)
    obs, x = inputs()
    program = trace(module, obs, x)

    def gradient(f):
        leaf = x.clone().requires_grad_()
        return torch.autograd.grad(f(obs, leaf).square().sum(), leaf)[0]

    assert torch.equal(gradient(program), gradient(module))


def test_compiled_code_is_found_again_by_another_process(tmp_path):
    """Inductor's cache on disk, of a graph with networks of both kinds."""
    code = """
import torch
from torch._dynamo.utils import counters
from problems import make_problem
from test_mlp_torch import sequential
import vgf_kernels.torch as vgf

frozen, live = make_problem().critic, vgf.MLP.from_torch(sequential(widths=(8, 9, 1)))
obs, x = torch.zeros(2, 5), torch.zeros(2, 4, 3)
torch.compile(lambda obs, x: (vgf.value(frozen, obs, x), vgf.value(live, obs, x)), fullgraph=True)(obs, x)
print(counters["inductor"]["fxgraph_cache_hit"], counters["inductor"]["fxgraph_cache_miss"])
"""
    assert [run(code, TORCHINDUCTOR_CACHE_DIR=str(tmp_path), TORCHINDUCTOR_FX_GRAPH_CACHE="1") for _ in range(2)] == ["0 1\n", "1 0\n"]
