"""MLP.from_torch tries a module's forward: what it tells apart, on what modules, and that it leaves no trace."""

from __future__ import annotations

import itertools
import warnings

import pytest
import torch
import torch.nn.functional as F
from plain_torch import ACTIVATIONS
from test_mlp_torch import OfABatch, check_reads, sequential
from test_mlp_torch_refused import Residual
from torch import nn

from vgf_kernels import MLP

OTHERS = {
    "relu": [F.relu6, lambda z: F.leaky_relu(z, 1e-3), lambda z: F.leaky_relu(z, 1e-2)],
    "gelu": [F.gelu, lambda z: z * torch.sigmoid(1.702 * z)],
    "elu": [lambda z: F.elu(z, 0.99), F.selu],
    "tanh": [F.hardtanh],
    "silu": [F.hardswish],
}


class Functional(nn.Module):
    """Layers whose activation is a function, of inputs that a function may change before."""

    def __init__(self, activation, widths=(8, 64, 64, 1), before=lambda x: x):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(*pair) for pair in itertools.pairwise(widths)])
        self.activation, self.before = activation, before

    def forward(self, x):
        x = self.before(x)
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return self.layers[-1](x)


@pytest.fixture(autouse=True)
def _every_forward_is_tried():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_that_is_a_function(name):
    module = Functional(ACTIVATIONS[name])
    check_reads(MLP.from_torch(module, activation=name), [module])
    for other in ACTIVATIONS.keys() - {name}:
        with pytest.raises(ValueError, match="Functional.forward does not compute the MLP"):
            MLP.from_torch(module, activation=other)


@pytest.mark.parametrize(("name", "function"), [(name, f) for name, fs in OTHERS.items() for f in fs])
def test_another_that_is_much_like_it(name, function):
    with pytest.raises(ValueError, match="Functional.forward does not compute the MLP"):
        MLP.from_torch(Functional(function), activation=name)


def test_observations_that_are_clipped():
    with pytest.raises(ValueError, match="Functional.forward does not compute the MLP"):
        MLP.from_torch(Functional(F.relu, before=lambda x: x.clamp(-5, 5)), activation="relu")


class Insisting(nn.Module):
    """On float32."""

    def __init__(self, net, times=1.0):
        super().__init__()
        self.net, self.times = net, times

    def forward(self, x):
        return self.net(x.float()) * self.times


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("wrap", [lambda net: net, Insisting])
def test_under_autocast(dtype, wrap):
    for seed in range(20):
        module = wrap(sequential("silu", "pre", widths=(8, 256, 256, 256, 1), seed=seed))
        with torch.autocast("cpu", dtype):
            mlp = MLP.from_torch(module)
        check_reads(mlp, [module])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_modules_of_other_dtypes(dtype):
    assert MLP.from_torch(sequential("mish", "pre").to(dtype)).dtype == str(dtype).removeprefix("torch.")


def test_a_forward_that_insists_on_float32():
    module = Insisting(sequential())
    check_reads(MLP.from_torch(module), [module])
    with pytest.raises(ValueError, match="Insisting.forward does not compute the MLP"):
        MLP.from_torch(Insisting(sequential(), 2.0))


def test_a_module_without_memory_yet():
    with torch.device("meta"):
        right, wrong = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 1)), Residual()
    mlp = MLP.from_torch(right)
    right.load_state_dict({name: torch.randn(p.shape) for name, p in right.state_dict().items()}, assign=True)
    check_reads(mlp, [right])
    with pytest.raises(ValueError, match="Residual.forward does not compute the MLP"):
        MLP.from_torch(wrong)


def tied():
    first, second = sequential(widths=(8, 8, 8, 1)), nn.Linear(8, 1)
    first[2].weight = first[0].weight
    return nn.Sequential(*first[:-1], second)


def listed_twice():
    square, norm, activation = nn.Linear(8, 8), nn.LayerNorm(8), nn.Tanh()
    return nn.Sequential(square, norm, activation, square, norm, activation, nn.Linear(8, 1))


@pytest.mark.parametrize("make", [sequential, tied, listed_twice])
def test_a_module_is_as_it_was(make):
    module = make()
    before = [(name, p, p.clone()) for name, p in module.named_parameters()]
    MLP.from_torch(module)
    after = list(module.named_parameters())
    assert [(name, id(p)) for name, p in after] == [(name, id(p)) for name, p, _ in before]
    assert all(torch.equal(p, copied) for _, p, copied in before)


def test_why_a_forward_was_not_tried():
    with pytest.warns(UserWarning, match=r"so it was not tried .* Of concat\(obs, action\) it said: .*Error: "):
        MLP.from_torch(OfABatch())
