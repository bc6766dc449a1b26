"""MLP.from_torch: which modules it reads, and the way back."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
from accuracy import EPS
from torch import nn

import vgf_kernels.torch
from vgf_kernels import MLP
from vgf_kernels.mlp import ACTIVATIONS, NORMS

O, A = 5, 3
MODULES = {
    "relu": nn.ReLU,
    "gelu": lambda: nn.GELU(approximate="tanh"),
    "gelu_erf": nn.GELU,
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "tanh": nn.Tanh,
    "elu": nn.ELU,
}


def sequential(
    activation="relu", norm="none", widths=(O + A, 16, 9, 1), seed=0, **norm_options
) -> nn.Sequential:
    """A plain module with random biases and norm parameters."""
    torch.manual_seed(seed)
    modules: list[nn.Module] = []
    for inner, outer in itertools.pairwise(widths[:-1]):
        tail = [MODULES[activation]()]
        if norm != "none":
            tail.insert(0 if norm == "pre" else 1, nn.LayerNorm(outer, **norm_options))
        modules += [nn.Linear(inner, outer), *tail]
    module = nn.Sequential(*modules, nn.Linear(*widths[-2:]))
    for parameter in module.parameters():
        nn.init.normal_(parameter, mean=0.1, std=0.4)
    return module


def inputs(B=6, N=4):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(B, O, generator=generator), torch.randn(B, N, A, generator=generator)


def check_reads(mlp: MLP, modules) -> None:
    """The library's value is the modules' own forward."""
    obs, actions = inputs()
    x = torch.cat([obs[:, None].expand(-1, actions.shape[1], -1), actions], dim=-1)
    with torch.no_grad():
        wanted = torch.stack([m(x)[..., 0] for m in modules])
        got = vgf_kernels.torch.value(mlp, obs, actions)
    torch.testing.assert_close(got, wanted, rtol=0, atol=100 * EPS * wanted.abs().max().item())


class TestShapes:
    @pytest.mark.parametrize("norm", NORMS)
    @pytest.mark.parametrize("activation", ACTIVATIONS)
    def test_sequential(self, activation, norm):
        module = sequential(activation, norm)
        mlp = MLP.from_torch(module)
        assert (mlp.activation, mlp.norm, mlp.widths, mlp.ensemble) == (activation, norm, (O + A, 16, 9, 1), 1)
        assert (mlp.framework, mlp.dtype, mlp.device, mlp.frozen) == ("torch", "float32", "cpu", False)
        check_reads(mlp, [module])

    @pytest.mark.parametrize("container", [list, tuple, nn.ModuleList])
    def test_ensembles(self, container):
        modules = [sequential(norm="pre", seed=s) for s in range(3)]
        mlp = MLP.from_torch(container(modules))
        assert mlp.ensemble == 3
        check_reads(mlp, modules)

    def test_nested_sequentials(self):
        module = nn.Sequential(nn.Sequential(nn.Linear(8, 4), nn.Tanh()), nn.Sequential(nn.Linear(4, 1)))
        check_reads(MLP.from_torch(module), [module])

    def test_a_module_with_functional_activations(self):
        class Critic(nn.Module):
            def __init__(self):
                super().__init__()
                self.layers = nn.ModuleList([nn.Linear(O + A, 16), nn.Linear(16, 9)])
                self.norms = nn.ModuleList([nn.LayerNorm(16), nn.LayerNorm(9)])
                self.head = nn.Linear(9, 1)

            def forward(self, x):
                for layer, norm in zip(self.layers, self.norms):
                    x = torch.relu(norm(layer(x)))
                return self.head(x)

        class Interleaved(nn.Module):
            def __init__(self):
                super().__init__()
                self.first, self.first_norm, self.head = nn.Linear(O + A, 16), nn.LayerNorm(16), nn.Linear(16, 1)

            def forward(self, x):
                return self.head(torch.relu(self.first_norm(self.first(x))))

        module = Interleaved()
        check_reads(MLP.from_torch(module, activation="relu", norm="pre"), [module])
        with pytest.raises(ValueError, match="no activation module found; name it: MLP.from_torch"):
            MLP.from_torch(module)
        with pytest.raises(ValueError, match=r"LayerNorm 'norms.0' does not follow a Linear of its width"):
            MLP.from_torch(Critic(), activation="relu", norm="pre")

    def test_a_module_that_shares_one_activation(self):
        class Shared(nn.Module):
            def __init__(self):
                super().__init__()
                self.a, self.b, self.c = nn.Linear(O + A, 16), nn.Linear(16, 9), nn.Linear(9, 1)
                self.act = nn.SiLU()

            def forward(self, x):
                return self.c(self.act(self.b(self.act(self.a(x)))))

        module = Shared()
        check_reads(MLP.from_torch(module), [module])

    def test_a_sequential_with_a_forward_of_its_own(self):
        class Shared(nn.Sequential):
            def forward(self, x):
                first, second, act, last = self
                return last(act(second(act(first(x)))))

        module = Shared(nn.Linear(O + A, 16), nn.Linear(16, 9), nn.SiLU(), nn.Linear(9, 1))
        check_reads(MLP.from_torch(module), [module])

    def test_a_module_with_two_names(self):
        class Named(nn.Module):
            def __init__(self):
                super().__init__()
                self.net = sequential()
                self.head = self.net[-1]

            def forward(self, x):
                return self.net(x)

        module = Named()
        check_reads(MLP.from_torch(module), [module])

    def test_a_norm_that_is_registered_before_the_activation_it_follows(self):
        class Critic(nn.Module):
            def __init__(self):
                super().__init__()
                self.first, self.norm, self.act, self.head = sequential(norm="pre", widths=(O + A, 16, 1))

            def forward(self, x):
                return self.head(self.norm(self.act(self.first(x))))

        module = Critic()
        check_reads(MLP.from_torch(module, norm="post"), [module])
        with pytest.raises(ValueError, match="Critic.forward does not compute the MLP its submodules spell"):
            MLP.from_torch(module)

    def test_a_sequential_that_lists_a_module_twice(self):
        square, norm, act = nn.Linear(8, 8), nn.LayerNorm(8), nn.Tanh()
        module = nn.Sequential(square, norm, act, square, norm, act, nn.Linear(8, 1))
        mlp = MLP.from_torch(module)
        assert (mlp.widths, mlp.norm) == ((8, 8, 8, 1), "pre")
        check_reads(mlp, [module])

    @pytest.mark.filterwarnings("error::UserWarning")
    def test_what_torch_compile_has_wrapped(self):
        """It is read, and tried, without being compiled."""

        def refuse(graph, example):
            raise AssertionError("compiled")

        module = sequential("silu", "post")
        check_reads(MLP.from_torch(torch.compile(module, backend=refuse)), [module])

    def test_reading_leaves_the_module_and_the_random_state_alone(self):
        class Counting(nn.Module):
            def __init__(self):
                super().__init__()
                self.net = sequential()
                self.register_buffer("calls", torch.zeros(()))

            def forward(self, x):
                self.calls += 1
                return self.net(x)

        module = Counting()
        before, state = copy.deepcopy(module.state_dict()), torch.get_rng_state()
        MLP.from_torch(module)
        assert all(torch.equal(before[name], now) for name, now in module.state_dict().items())
        assert torch.equal(state, torch.get_rng_state())

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("norm", NORMS)
    def test_other_dtypes(self, norm, dtype):
        module = sequential("gelu", norm, widths=(8, *[64] * 4, 1)).to(dtype)
        assert MLP.from_torch(module).dtype == str(dtype).removeprefix("torch.")

    @pytest.mark.parametrize("copy", [MLP.freeze, MLP.to_flax, lambda mlp: mlp.member(0).freeze()])
    def test_a_dtype_that_numpy_lacks(self, copy):
        mlp = MLP.from_torch(sequential("relu", "none").bfloat16())
        with pytest.raises(TypeError, match=r"a dtype that NumPy has, got torch.bfloat16 on cpu; .* \.float\(\)$"):
            copy(mlp)

    def test_members_of_another_eps(self):
        with pytest.raises(ValueError, match="members must be equal"):
            MLP.from_torch([sequential(norm="pre"), sequential(norm="pre", eps=1e-3)])

    def test_layers_of_parameters(self):
        module = sequential("relu", "none")
        layers = [{"W": linear.weight.T, "b": linear.bias} for linear in module if isinstance(linear, nn.Linear)]
        check_reads(MLP.from_layers(layers, activation="relu"), [module])

    @pytest.mark.parametrize("name", ["activation", "norm"])
    def test_a_name_that_nothing_has(self, name):
        with pytest.raises(ValueError, match=f"{name}: expected one of .*, got 'swish'"):
            MLP.from_torch(sequential("relu", "none"), **{name: "swish"})

    def test_a_forward_of_two_arguments(self):
        class Critic(nn.Module):
            def __init__(self):
                super().__init__()
                self.net = sequential("mish", "post")

            def forward(self, obs, action):
                return self.net(torch.cat([obs, action], dim=-1))

        module = Critic()
        check_reads(MLP.from_torch(module), [module.net])

    @pytest.mark.filterwarnings("error::UserWarning")  # that it was not tried
    @pytest.mark.parametrize("expected", [1, 3, 5, 7])
    def test_a_forward_that_needs_the_widths_of_its_arguments(self, expected):
        module = Critic(expected)
        check_reads(MLP.from_torch(module), [module.net])

    @pytest.mark.filterwarnings("error::UserWarning")
    @pytest.mark.parametrize("expected", [1, 4, 6])
    def test_a_velocity_field_that_needs_the_widths_of_its_arguments(self, expected):
        class Velocity(Critic):
            def forward(self, obs, x, t):
                assert t.shape[-1] == 1
                return super().forward(obs, torch.cat([x, t], dim=-1))

        module = Velocity(expected)
        check_reads(MLP.from_torch(module), [module.net])

    @pytest.mark.filterwarnings("error::UserWarning")
    def test_arguments_of_any_name(self):
        class Named(Critic):
            def forward(self, s, a):
                return super().forward(s, a)

        module = Named()
        check_reads(MLP.from_torch(module), [module.net])

    @pytest.mark.parametrize("name", ["net", "q"])
    def test_a_forward_that_cannot_be_tried_gives_a_warning(self, name):
        module = OfABatch()
        net = module.net
        del module.net
        module.add_module(name, net)
        message = rf"OfABatch.forward takes neither .* so it was not tried.*MLP.from_torch\(module.{name}\).*it said: IndexError"
        with pytest.warns(UserWarning, match=message) as warned:
            check_reads(MLP.from_torch(module), [net])
        assert warned[0].filename == __file__

    def test_absent_parameters(self):
        no_bias = nn.Sequential(nn.Linear(8, 6, bias=False), nn.ReLU(), nn.Linear(6, 1, bias=False))
        no_affine = sequential(norm="pre", elementwise_affine=False)
        no_shift = sequential(norm="post", bias=False)
        for module in (no_bias, no_affine, no_shift):
            check_reads(MLP.from_torch(module), [module])

    def test_modules_that_do_nothing(self):
        module = nn.Sequential(nn.Linear(8, 6), nn.Identity(), nn.ReLU(), nn.Dropout(0.0), nn.Linear(6, 1))
        check_reads(MLP.from_torch(module), [module])

    def test_the_eps_of_the_norm(self):
        module = sequential(norm="pre", eps=0.1)
        mlp = MLP.from_torch(module)
        assert mlp.norm_eps == 0.1
        check_reads(mlp, [module])


class Critic(nn.Module):
    """forward(obs, action) of `expected` and 8 - `expected` numbers, which it needs to be these."""

    def __init__(self, expected=5):
        super().__init__()
        self.net, self.expected = sequential(), expected

    def forward(self, obs, action):
        assert obs.shape[-1] == self.expected
        return self.net(torch.cat([self.seen(obs), action], dim=-1)).squeeze(-1)

    def seen(self, obs):
        return obs


class OfABatch(Critic):
    def forward(self, batch):
        return super().forward(batch["obs"], batch["action"])


def test_numpy_arrays_and_torch_weights():
    """The NumPy frontend reads a torch module's weights too."""
    import vgf_kernels.numpy

    module = sequential(norm="post")
    obs, actions = inputs()
    got = vgf_kernels.numpy.value(MLP.from_torch(module), obs.numpy(), actions.numpy())
    wanted = vgf_kernels.torch.value(MLP.from_torch(module), obs, actions)
    np.testing.assert_array_equal(got, wanted.numpy())
