"""A live MLP never computes with stale weights, however they were changed; a frozen one never changes."""

from __future__ import annotations

import copy

import pytest
import torch
from problems import make_problem
from test_mlp_torch import check_reads, inputs, sequential
from torch import nn

import vgf_kernels.torch
from vgf_kernels import MLP
from vgf_kernels.mlp import NORMS


def optimizer_step(module):
    optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
    module(torch.ones(3, 8)).sum().backward()
    optimizer.step()


def fused_optimizer_step(module):
    optimizer = torch.optim.Adam(module.parameters(), lr=0.5, foreach=True)
    module(torch.ones(3, 8)).sum().backward()
    optimizer.step()


def load_state_dict(module):
    module.load_state_dict(sequential(norm="pre", seed=9).state_dict())


def load_state_dict_by_assignment(module):
    module.load_state_dict(sequential(norm="pre", seed=9).state_dict(), assign=True)


def data_copy(module):
    """Not counted by torch as a write."""
    for p, q in zip(module.parameters(), sequential(norm="pre", seed=9).parameters()):
        p.data.copy_(q.data)


def polyak(module):
    for p, q in zip(module.parameters(), sequential(norm="pre", seed=9).parameters()):
        p.data.lerp_(q.data, 0.005)


def one_element(module):
    module[0].weight.data[3, 2] += 1.0


def one_bias_of_a_norm(module):
    module[1].bias.data[-1] += 1.0


def the_last_bias(module):
    with torch.no_grad():
        module[-1].bias += 1.0


def the_last_bias_by_data(module):
    module[-1].bias.data += 1.0


def two_signs(module):
    module[0].weight.data.view(-1)[[1, 17]] *= -1.0


def through_numpy(module):
    module[3].weight.detach().numpy()[0, 0] += 1.0


def replaced_parameter(module):
    module[0].weight = nn.Parameter(torch.randn_like(module[0].weight))


def replaced_data(module):
    module[0].weight.data = torch.randn_like(module[0].weight)


def two_elements_swapped(module):
    """The same bytes in another order."""
    with torch.no_grad():
        weight = module[3].weight
        weight[0, 0], weight[1, 1] = weight[1, 1].clone(), weight[0, 0].clone()


def transposed_data(module):
    """Another layout of other values, at other strides."""
    weight = torch.randn(8, 16)
    module[0].weight.data = weight.t()


def inference_mode(module):
    with torch.inference_mode():
        module[0].weight.data.mul_(2.0)


CHANGES = [
    optimizer_step, fused_optimizer_step, load_state_dict, load_state_dict_by_assignment, data_copy, polyak,
    one_element, one_bias_of_a_norm, the_last_bias, the_last_bias_by_data, two_signs, through_numpy,
    replaced_parameter, replaced_data, two_elements_swapped, transposed_data, inference_mode,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_noticed(change):
    modules = [sequential(norm="pre", seed=s) for s in range(2)]
    mlp = MLP.from_torch(modules)
    check_reads(mlp, modules)
    before = vgf_kernels.torch.value(mlp, *inputs())
    change(modules[1])
    check_reads(mlp, modules)
    assert not torch.equal(vgf_kernels.torch.value(mlp, *inputs()), before)


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_noticed_by_the_gradient(change):
    """The engine keeps another copy of the weights for the way back."""
    module = sequential(norm="pre")
    mlp = MLP.from_torch(module)
    vgf_kernels.torch.value_and_grad(mlp, *inputs())
    change(module)
    _, dq = vgf_kernels.torch.value_and_grad(mlp, *inputs())
    _, wanted = vgf_kernels.torch.value_and_grad(MLP.from_torch(copy.deepcopy(module)), *inputs())
    assert torch.equal(dq, wanted)


@pytest.mark.parametrize("change", CHANGES)
def test_a_frozen_copy_does_not_change(change):
    """It holds weights of its own from the start, not from when it is first read."""
    module = sequential(norm="pre")
    frozen = MLP.from_torch(module).freeze()
    assert frozen.frozen
    before = copy.deepcopy(module)
    change(module)
    check_reads(frozen, [before])


@pytest.mark.parametrize("make", [lambda: make_problem().critic, lambda: MLP.from_torch(sequential(norm="pre"))])
def test_weights_that_do_not_change_are_packed_once(make):
    mlp = make()
    vgf_kernels.torch.value_and_grad(mlp, *inputs())
    kept = dict(mlp.packed)
    for function in (vgf_kernels.torch.value, vgf_kernels.torch.value_and_grad):
        function(mlp, *inputs())
    assert kept and all(mlp.packed[engine] is packing for engine, packing in kept.items())


def test_a_change_is_packed_once_by_who_needs_the_least(monkeypatch):
    """For a gradient, too, where one was asked for before the change."""
    module = sequential()
    mlp = MLP.from_torch(module)
    vgf_kernels.torch.value_and_grad(mlp, *inputs(), backend="cpu")
    one_element(module)
    vgf_kernels.torch.value(mlp, *inputs(), backend="cpu")
    monkeypatch.setattr("vgf_kernels.cpu._pack", None)
    vgf_kernels.torch.value_and_grad(mlp, *inputs(), backend="cpu")


def test_a_copied_agent_notices_another_module_of_its_own():
    class Agent(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.q = sequential(norm="pre")
            self.critic = MLP.from_torch(self.q)

    agent = Agent()
    copied = copy.deepcopy(agent)
    agent.q[0] = torch.nn.Linear(16, 9)
    vgf_kernels.torch.value(copied.critic, *inputs())
    copied.q[0] = torch.nn.Linear(16, 9)
    with pytest.raises(ValueError, match="'0' of the module that MLP.from_torch has read is another one by now"):
        vgf_kernels.torch.value(copied.critic, *inputs())


@pytest.mark.parametrize("compiled", [False, True])
def test_a_module_more_than_were_read_is_an_error(compiled):
    module = sequential(norm="pre")
    mlp = MLP.from_torch(module)

    def value(obs, x):
        return vgf_kernels.torch.value(mlp, obs, x)

    call = torch.compile(value, backend="eager", fullgraph=True) if compiled else value
    call(*inputs())
    module.append(torch.nn.Tanh())
    with pytest.raises(ValueError, match=f"had {len(module) - 1} modules, and has {len(module)} by now; make a new MLP"):
        call(*inputs())
    del module[-1]
    call(*inputs())


@pytest.mark.parametrize("place", [0, 2, 3])
@pytest.mark.parametrize("compiled", [False, True])
def test_another_module_in_the_place_of_one_that_was_read_is_an_error(place, compiled):
    """The parameters that were read are no longer those of the module."""
    module = sequential(norm="pre")
    mlp = MLP.from_torch([sequential(norm="pre"), module])

    def value(obs, x):
        return vgf_kernels.torch.value(mlp, obs, x)

    call = torch.compile(value, backend="eager", fullgraph=True) if compiled else value
    call(*inputs())
    copied, replaced = copy.deepcopy(mlp), module[place]
    module[place] = torch.nn.Linear(16, 9) if isinstance(replaced, torch.nn.Linear) else torch.nn.Tanh()
    with pytest.raises(ValueError, match=f"'{place}' of the module that MLP.from_torch has read is another one by now"):
        call(*inputs())
    vgf_kernels.torch.value(copied, *inputs())
    module[place] = replaced
    call(*inputs())


@pytest.mark.parametrize("change", [lambda ms: ms.__setitem__(0, sequential()), lambda ms: ms.append(sequential())])
def test_another_member_in_a_module_list_is_an_error(change):
    members = nn.ModuleList([sequential(), sequential(seed=9)])
    critic = MLP.from_torch(members)
    change(members)
    with pytest.raises(ValueError, match=r"is another one by now, .*|the ModuleList .* had 2 modules, and has 3 by now.*make a new MLP"):
        vgf_kernels.torch.value(critic, *inputs())


def test_a_weight_that_is_taken_away():
    module = sequential()
    critic = MLP.from_torch(module)
    module[0].weight = None
    with pytest.raises(ValueError, match="the module has other parameters than when its MLP was made"):
        vgf_kernels.torch.value(critic, *inputs())


@pytest.mark.parametrize("axes", [1, 3])
def test_a_weight_of_other_axes(axes):
    module = sequential()
    critic = MLP.from_torch(module)
    module[0].weight = nn.Parameter(torch.ones(module[0].weight.shape[:1] * axes))
    with pytest.raises(ValueError, match=rf"layer 0: expected W \[in, out\] with positive widths, got shape \({', '.join(['16'] * axes)}"):
        vgf_kernels.torch.value(critic, *inputs())


def test_weights_of_a_transform():
    module = sequential()
    critic = MLP.from_torch(module)

    class Agent(nn.Module):
        def __init__(self):
            super().__init__()
            self.critic = module

        def forward(self, obs, actions):
            return vgf_kernels.torch.value(critic, obs, actions)

    def loss(parameters):
        return torch.func.functional_call(Agent(), parameters, inputs()).sum()

    parameters = {f"critic.{name}": p.detach() for name, p in module.named_parameters()}
    with pytest.raises(RuntimeError, match="vmap, grad and jvp cannot pass through an engine"):
        torch.func.grad(loss)(parameters)


def test_training_a_critic_on_its_own_targets():
    """A loop of optimizer step, Polyak update and call: every call sees the weights of its time."""
    critic, target = sequential(seed=1), sequential(seed=2)
    live_critic, live_target = MLP.from_torch(critic), MLP.from_torch(target)
    optimizer = torch.optim.Adam(critic.parameters(), lr=0.01)
    for _ in range(5):
        loss = (critic(torch.randn(16, 8)) - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for p, q in zip(target.parameters(), critic.parameters()):
                p.data.lerp_(q.data, 0.1)
        check_reads(live_critic, [critic])
        check_reads(live_target, [target])


def test_weights_cast_to_another_dtype():
    module = sequential()
    mlp = MLP.from_torch(module)
    check_reads(mlp, [module])
    module.double()
    with pytest.raises(TypeError, match="the cpu engine computes float32, got float64"):
        vgf_kernels.torch.value(mlp, *inputs(), backend="cpu")
    module.float()
    check_reads(mlp, [module])


def test_a_parameter_transposed_where_it_lies():
    """At the same address, with the same shape and the same bytes, in another order."""
    module = sequential(widths=(8, 8, 8, 1))
    mlp = MLP.from_torch(module)
    check_reads(mlp, [module])
    module[0].weight.data = module[0].weight.data.t()
    check_reads(mlp, [module])


def strided(module):
    """Every parameter as every second number of something larger, along every axis."""
    for p in module.parameters():
        larger = torch.full([2 * size for size in p.shape], torch.nan)
        p.data = larger[tuple(slice(None, None, 2) for _ in p.shape)].copy_(p.data)
    assert not module[0].weight.is_contiguous()
    return module


@pytest.mark.parametrize("norm", NORMS)
def test_strided_parameters(norm):
    module = strided(sequential("gelu", norm))
    check_reads(MLP.from_torch(module), [module])


@pytest.mark.parametrize("place", [0, 1, 3, -1])
def test_the_last_number_of_a_strided_parameter(place):
    module = strided(sequential(norm="pre"))
    mlp = MLP.from_torch(module)
    check_reads(mlp, [module])
    module[place].weight.data[..., -1] += 1.0
    check_reads(mlp, [module])


def test_parameters_made_in_inference_mode():
    """They count no writes."""
    with torch.inference_mode():
        module = sequential(norm="pre")
        mlp = MLP.from_torch(module)
        check_reads(mlp, [module])
        module[3].weight.mul_(2)
        check_reads(mlp, [module])


def test_a_parametrization_that_comes_later():
    module = sequential()
    mlp = MLP.from_torch(module)
    check_reads(mlp, [module])
    nn.utils.parametrizations.weight_norm(module[0])
    with pytest.raises(ValueError, match="parameters are no longer where they were: .* a parametrization; remove it"):
        vgf_kernels.torch.value(mlp, *inputs())


def test_parameters_cut_where_they_lie():
    """Pruned units: at the same address, with the same strides and the same bytes, fewer numbers."""
    module = sequential()
    mlp = MLP.from_torch(module)
    check_reads(mlp, [module])
    last = module[2]
    module[0].weight.data, module[0].bias.data = module[0].weight.data[:5], module[0].bias.data[:5]
    last.weight.data = last.weight.data[:, :5]
    with pytest.raises(ValueError, match="the module's widths have changed: expected"):
        vgf_kernels.torch.value(mlp, *inputs())


def test_a_parameter_whose_memory_holds_its_negative():
    module = sequential()
    mlp = MLP.from_torch(module)
    check_reads(mlp, [module])
    module[0].weight = nn.Parameter(torch.complex(module[0].weight.data, module[0].weight.data).conj().imag)
    with pytest.raises(ValueError, match="got a negative view .*; use .resolve_neg()"):
        vgf_kernels.torch.value(mlp, *inputs())
    with pytest.raises(ValueError, match="got a negative view .*; use .resolve_neg()"):
        MLP.from_torch(module)
