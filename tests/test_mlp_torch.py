"""MLP.from_torch: which modules it reads, which it refuses, and the way back."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
from accuracy import EPS
from torch import nn
from torch.nn.utils import prune

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

    @pytest.mark.parametrize("expected", [1, 3, 5, 7])
    def test_a_forward_that_needs_the_widths_of_its_arguments(self, expected):
        module = Critic(expected)
        check_reads(MLP.from_torch(module), [module.net])

    @pytest.mark.filterwarnings("error::UserWarning")  # that it was not tried
    def test_a_velocity_field_that_needs_the_widths_of_its_arguments(self):
        class Velocity(Critic):
            def forward(self, obs, x, t):
                assert t.shape[-1] == 1
                return super().forward(obs, torch.cat([x, t], dim=-1))

        module = Velocity(4)
        check_reads(MLP.from_torch(module), [module.net])

    def test_a_forward_that_cannot_be_tried_gives_a_warning(self):
        module = OfABatch()
        with pytest.warns(UserWarning, match="OfABatch.forward takes neither .* so it was not tried") as warned:
            check_reads(MLP.from_torch(module), [module.net])
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


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.act, self.b, self.c = nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 1)

    def forward(self, x):
        return self.c(x + self.act(self.b(self.act(self.a(x)))))


class Twins(nn.Module):
    def __init__(self):
        super().__init__()
        self.q1, self.q2 = sequential(), sequential()


class Doubled(nn.Sequential):
    def __init__(self):
        super().__init__(*sequential())

    def forward(self, x):
        return 2 * super().forward(x)


class Squashed(nn.Module):
    """With a last layer of zeros, as agents like to start."""

    def __init__(self):
        super().__init__()
        self.net = sequential()
        nn.init.zeros_(self.net[-1].weight)

    def forward(self, x):
        return torch.tanh(self.net(x))


class ActionFirst(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = sequential()

    def forward(self, obs, action):
        return self.net(torch.cat([action, obs], dim=-1))


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


class Normalising(Critic):
    """By a mean of zeros, as before the first observation."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(self.expected))

    def seen(self, obs):
        return obs - self.mean


class Weighing(Critic):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(self.expected))

    def seen(self, obs):
        return obs * self.weight


class Scaled(Critic):
    def forward(self, obs, action):
        return 7 * super().forward(obs, action)


class OfABatch(Critic):
    def forward(self, batch):
        return super().forward(batch["obs"], batch["action"])


def hooked():
    module = sequential()
    module[0].register_forward_hook(lambda module, inputs, output: output + 1)
    return module


def weight_taken():
    module = sequential()
    module[0].weight = None
    return module


def bias_pruned():
    module = sequential()
    prune.random_unstructured(module[0], "bias", 0.5)
    return module


def weight_normed():
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(8, 4)), nn.ReLU(), nn.Linear(4, 1))


REFUSED = {
    "a convolution": (
        lambda: nn.Sequential(nn.Conv1d(8, 4, 1), nn.Linear(4, 1)),
        "'0' is a Conv1d; expected Linear",
    ),
    "batch norm": (
        lambda: nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 1)),
        "'1' is a BatchNorm1d; expected Linear, LayerNorm",
    ),
    "dropout": (
        lambda: nn.Sequential(nn.Linear(8, 4), nn.Dropout(0.5), nn.ReLU(), nn.Linear(4, 1)),
        "is a Dropout",
    ),
    "an activation it lacks": (
        lambda: nn.Sequential(nn.Linear(8, 4), nn.LeakyReLU(), nn.Linear(4, 1)),
        "'1' is a LeakyReLU",
    ),
    "elu of another alpha": (
        lambda: nn.Sequential(nn.Linear(8, 4), nn.ELU(alpha=0.5), nn.Linear(4, 1)),
        "ELU is supported with alpha=1 only, got 0.5",
    ),
    "two activations": (
        lambda: nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1)),
        r"expected one activation and one eps, got \['relu', 'tanh'\]",
    ),
    "norms of two eps": (
        lambda: nn.Sequential(*sequential(norm="pre")[:4], nn.LayerNorm(9, eps=1e-6), nn.ReLU(), nn.Linear(9, 1)),
        r"expected one activation and one eps, got \['relu'\], \[1e-06, 1e-05\]",
    ),
    "a norm on the input": (
        lambda: nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 1)),
        "LayerNorm '0' does not follow a Linear of its width",
    ),
    "a norm in one layer only": (
        lambda: nn.Sequential(
            nn.Linear(8, 4), nn.LayerNorm(4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1)
        ),
        "got the order LNALAL",
    ),
    "an activation at the end": (
        lambda: nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 1), nn.Tanh()),
        "one activation and one eps",
    ),
    "the same activation at the end": (
        lambda: nn.Sequential(nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 1), nn.Tanh()),
        "a LayerNorm on the same side of each or none, then a Linear; got the order LALA",
    ),
    "an activation at the start": (
        lambda: nn.Sequential(nn.ReLU(), nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 1)),
        "got the order ALAL",
    ),
    "an activation twice": (
        lambda: nn.Sequential(nn.Linear(8, 4), nn.Tanh(), nn.Tanh(), nn.Linear(4, 1)),
        "got the order LAAL",
    ),
    "two Linears in a row": (
        lambda: nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1)),
        "got the order LLAL",
    ),
    "a Sequential with a forward of its own": (Doubled, "Doubled.forward does not compute the MLP"),
    "a hook": (hooked, "Sequential.forward does not compute the MLP"),
    "an activation that the weights of the moment hide": (
        Squashed,
        "Squashed.forward does not compute the MLP",
    ),
    "the action before the observation": (
        ActionFirst,
        r"ActionFirst.forward does not compute the MLP .* from concat\(obs, action\)",
    ),
    "a mean of observations that is still zero": (Normalising, "Normalising.forward does not compute the MLP"),
    "a weight of observations that is still one": (Weighing, "Weighing.forward does not compute the MLP"),
    "an output that is scaled": (Scaled, "Scaled.forward does not compute the MLP"),
    "weights that are not there yet": (
        lambda: nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.Linear(4, 1)),
        "'0' has no weights yet; call the module once first",
    ),
    "one Linear": (lambda: nn.Sequential(nn.Linear(8, 1)), "expected at least two Linear layers, found 1"),
    "a residual connection": (Residual, "Residual.forward does not compute the MLP its submodules spell"),
    "twins in one module": (Twins, r"widths do not chain \(1 -> 8\); .* pass them as a list"),
    "weight norm": (
        weight_normed,
        "has a parametrized weight; remove the parametrization first|is a _WeightNorm",
    ),
    "a weight that is not there": (weight_taken, "'0' has a parametrized weight; remove the parametrization first"),
    "a bias that is pruned": (bias_pruned, "'0' has a parametrized bias; remove the parametrization first"),
    "a function": (lambda: torch.relu, "expected an nn.Module or a non-empty list of them"),
    "an empty list": (list, "expected an nn.Module or a non-empty list of them"),
    "members that differ": (
        lambda: [sequential(), sequential(widths=(8, 7, 9, 1))],
        r"member 0 has widths \(8, 16, 9, 1\), member 1 has \(8, 7, 9, 1\)",
    ),
    "members of other activations": (
        lambda: [sequential("relu"), sequential("tanh")],
        "members must be equal",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    make, message = REFUSED[case]
    with pytest.raises((ValueError, TypeError), match=message):
        MLP.from_torch(make())


@pytest.mark.parametrize(
    ("module", "keyword", "message"),
    [
        (sequential(), {"activation": "tanh"}, "activation is 'relu' in the module, got activation='tanh'; leave"),
        (sequential(norm="pre"), {"norm": "post"}, "norm is 'pre' in the module, got norm='post'; leave it out"),
        (sequential(norm="pre"), {"norm_eps": 1e-6}, "norm_eps is 1e-05 in the module, got norm_eps=1e-06; leave"),
    ],
)
def test_keywords_that_contradict_the_module(module, keyword, message):
    with pytest.raises(ValueError, match=message):
        MLP.from_torch(module, **keyword)


def test_numpy_arrays_and_torch_weights():
    """The NumPy frontend reads a torch module's weights too."""
    import vgf_kernels.numpy

    module = sequential(norm="post")
    obs, actions = inputs()
    got = vgf_kernels.numpy.value(MLP.from_torch(module), obs.numpy(), actions.numpy())
    wanted = vgf_kernels.torch.value(MLP.from_torch(module), obs, actions)
    np.testing.assert_array_equal(got, wanted.numpy())
