"""FlowConfig refuses what no flow can mean, and is a plain frozen value otherwise."""

from __future__ import annotations

import copy
import pickle
import re
from dataclasses import FrozenInstanceError, asdict, fields, replace

import numpy as np
import pytest

from vgf_kernels import MLP, FlowConfig
from vgf_kernels.config import from_bits

NAN, INF = float("nan"), float("inf")

REFUSED = [
    ({"num_steps": -1}, "num_steps: expected an integer >= 0, got -1"),
    ({"num_steps": 3.0}, "num_steps: expected an integer >= 0, got 3.0"),
    ({"num_steps": 1.5}, "num_steps: expected an integer >= 0, got 1.5"),
    ({"num_steps": True}, "num_steps: expected an integer >= 0, got True"),
    ({"num_steps": "3"}, "num_steps: expected an integer >= 0, got '3'"),
    ({"num_steps": None}, "num_steps: expected an integer >= 0, got None"),
    ({"num_steps": NAN}, "num_steps: expected an integer >= 0, got nan"),
    ({"num_steps": INF}, "num_steps: expected an integer >= 0, got inf"),
    ({"num_steps": 2**31}, "num_steps: expected at most 2147483647 steps, got 2147483648; "),
    ({"num_steps": 10**30}, "num_steps: expected at most 2147483647 steps, got 1000000"),
    *[
        ({field: bad}, f"{field}: expected a finite number > 0, got {bad!r}")
        for field in ("learning_rate", "alpha", "bandwidth")
        for bad in (0, 0.0, -0.1, NAN, INF, None, True, 10**400)
    ],
    *[
        ({field: bad}, f"{field}: expected a number between 1e-37 and 1e.37, which float32 can hold, got {re.escape(repr(bad))}")
        for field in ("learning_rate", "alpha", "bandwidth")
        for bad in (1e-40, 1e200)
    ],
    ({"learning_rate": "0.1"}, "learning_rate: expected a finite number > 0, got '0.1'"),
    ({"aggregate": "max"}, "aggregate: expected one of 'mean', 'min', got 'max'"),
    ({"kernel": "linear"}, "kernel: expected one of 'rbf', None, got 'linear'"),
    ({"optimizer": "lion"}, "optimizer: expected one of 'adam', 'sgd', got 'lion'"),
    ({"bandwidth": "mean"}, r"bandwidth: expected one of 'median' or a positive float \(sigma\), got 'mean'"),
    ({"bandwidth_grad": 1}, "bandwidth_grad: expected True or False, got 1"),
    (
        {"bandwidth": 0.5, "bandwidth_grad": True},
        'bandwidth is 0.5; use bandwidth="median" or bandwidth_grad=False',
    ),
    *[
        ({"clip": bounds}, "clip: .*; one pair of numbers is for all dimensions of an action")
        for bounds in ((np.zeros(2), np.ones(2)), [np.zeros(2), np.ones(2)])
    ],
    ({"clip": (0.0, 0.0)}, r"clip: expected low < high, got \(0.0, 0.0\); pass None for no clip"),
    ({"clip": (1.0, -1.0)}, r"clip: expected low < high, got \(1.0, -1.0\); swap the bounds"),
    ({"clip": (0.5, 0.5)}, r"clip: expected low < high, got \(0.5, 0.5\)"),
    ({"clip": (NAN, 1.0)}, r"clip: expected low < high, got \(nan, 1.0\)"),
    ({"clip": 1.0}, r"clip: expected \(low, high\), two numbers, or None, got 1.0"),
    ({"clip": (-1.0, 0.0, 1.0)}, r"clip: expected \(low, high\), two numbers, or None, got"),
    ({"clip": "ab"}, r"clip: expected \(low, high\), two numbers, or None, got 'ab'"),
]


@pytest.mark.parametrize(("settings", "message"), REFUSED, ids=[str(s) for s, _ in REFUSED])
def test_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        FlowConfig(**settings)


@pytest.mark.parametrize("field", [field.name for field in fields(FlowConfig)])
@pytest.mark.parametrize(
    "bad",
    [
        np.zeros(3), np.zeros((2, 2)), np.array("rbf"), np.array(["rbf", "min"]), np.bool_(True), ["mean"], {}, "",
        ("-1", "1"), (False, True), NAN, 1j, (0, 10**400),
    ],
    ids=repr,
)  # fmt: skip
def test_no_field_takes_what_makes_no_sense(field, bad):
    with pytest.raises(ValueError, match=rf"^{field}: expected .*, got {re.escape(repr(bad))}"):
        FlowConfig(**{field: bad})


@pytest.mark.parametrize("eps", [np.zeros(2), None, True, "1e-6", NAN, INF, -1e-6, 10**400], ids=repr)
def test_eps_of_a_norm_is_a_finite_number(eps):
    layers = [[{"W": np.zeros((2, 3)), "b": np.zeros(3)}, {"W": np.zeros((3, 1)), "b": np.zeros(1)}]]
    with pytest.raises(ValueError, match=rf"norm_eps: expected a finite number >= 0, got {re.escape(repr(eps))}"):
        MLP.from_layers(layers, norm_eps=eps)


def test_the_most_steps():
    assert FlowConfig(num_steps=2**31 - 1).num_steps == 2**31 - 1


def test_replace_checks_again():
    with pytest.raises(ValueError, match="alpha"):
        replace(FlowConfig(), alpha=-1.0)


def test_frozen_and_hashable():
    config = FlowConfig(num_steps=3, clip=[-1, 1])
    assert config.clip == (-1.0, 1.0)
    assert config == FlowConfig(num_steps=3) and hash(config) == hash(FlowConfig(num_steps=3))
    assert config != FlowConfig(num_steps=4)
    assert pickle.loads(pickle.dumps(config)) == config
    with pytest.raises(FrozenInstanceError):
        config.alpha = 2.0


def test_copies():
    """Its numbers' bits, by which it enters a compiled graph, go with it, but are no field."""
    config = FlowConfig(num_steps=3, alpha=0.3, bandwidth=0.7)
    assert FlowConfig(**vars(config)) == FlowConfig(**asdict(config)) == config
    for made in (copy.copy(config), copy.deepcopy(config), pickle.loads(pickle.dumps(config)), replace(config)):
        assert made == config
        assert [from_bits(bits) for bits in made.bits] == [0.1, 0.3, 0.7]


def test_numpy_numbers_are_numbers():
    config = FlowConfig(
        num_steps=np.int64(3), learning_rate=np.float32(0.5), alpha=np.float64(1), bandwidth=np.float32(1),
        clip=(np.float32(-1), 1),
    )  # fmt: skip
    assert config == FlowConfig(num_steps=3, learning_rate=0.5, alpha=1.0, bandwidth=1.0, clip=(-1.0, 1.0))
    kept = [config.num_steps, config.learning_rate, config.alpha, config.bandwidth, *config.clip]
    assert list(map(type, kept)) == [int, *[float] * 5], "torch.compile takes NumPy's for tensors"
