"""MLP.from_torch: the modules that it refuses, since they are no plain MLP, and what it says of each."""

from __future__ import annotations

import pytest
import torch
from test_mlp_torch import Critic, sequential
from torch import nn
from torch.nn.utils import prune

from vgf_kernels import MLP


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


class ActionSaidFirst(ActionFirst):
    def forward(self, action, obs):
        return super().forward(obs, action)


class TimeSaidFirst(ActionFirst):
    def forward(self, obs, t, x):
        return self.net(torch.cat([obs, t, x], dim=-1))


class Stacked(nn.Linear):
    """Weights of two members in one, as ensembles often have them."""

    def __init__(self, inner, outer):
        super().__init__(inner, outer)
        self.weight = nn.Parameter(torch.randn(2, outer, inner))


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


def hooked():
    module = sequential()
    module[0].register_forward_hook(lambda module, inputs, output: output + 1)
    return module


def weight_taken():
    module = sequential()
    module[0].weight = None
    return module


def with_weight(tensor):
    module = sequential()
    module[0].weight = nn.Parameter(tensor, requires_grad=False)
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
        r"is a Dropout; .* the engines drop nothing: .* nn.Identity\(\) in its place",
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
        r"expected one activation in all layers, got \['relu', 'tanh'\]; use the same in each",
    ),
    "norms of two eps": (
        lambda: nn.Sequential(*sequential(norm="pre")[:4], nn.LayerNorm(9, eps=1e-6), nn.ReLU(), nn.Linear(9, 1)),
        r"expected one eps of the layer norms in all layers, got \[1e-06, 1e-05\]",
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
        r"then a Linear; got the order LALA .*; leave out what follows the last Linear",
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
    "an output that is scaled, of the second member": (
        lambda: [sequential(), Scaled()],
        "Scaled.forward does not compute the MLP",
    ),
    "weights that are not there yet": (
        lambda: nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.Linear(4, 1)),
        "'0' has no weights yet; call the module once first",
    ),
    "one Linear": (lambda: nn.Sequential(nn.Linear(8, 1)), "expected at least two Linear layers, found 1"),
    "a residual connection": (Residual, "Residual.forward does not compute the MLP its submodules spell"),
    "twins in one module": (Twins, r"widths do not chain \(1 -> 8\); .* pass them as a list"),
    "the action said before the observation": (
        ActionSaidFirst,
        r"forward takes \(action, obs\), and its layers concat\(action, obs\); expected concat\(obs, action\)",
    ),
    "the time said before the particles": (TimeSaidFirst, r"forward takes \(obs, t, x\), .* or concat\(obs, x, t\)"),
    "weight norm": (weight_normed, "'0' has a parametrized weight; remove the parametrization first"),
    "weights of several members": (
        lambda: nn.Sequential(Stacked(8, 4), nn.ReLU(), Stacked(4, 1)),
        r"'0' has a weight of torch.float32, .*, shape \[2, 4, 8\]; expected .* \[4, 8\], and a list of modules",
    ),
    "weights that are whole numbers": (
        lambda: with_weight(torch.ones(16, 8, dtype=torch.int32)),
        "'0' has a weight of torch.int32, .*; expected dense floating point numbers",
    ),
    "sparse weights": (lambda: with_weight(torch.ones(16, 8).to_sparse()), "'0' has a weight of .*torch.sparse_coo"),
    "a weight of one axis": (lambda: with_weight(torch.ones(16)), r"shape \[16\]; expected .* \[16, 8\]"),
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
