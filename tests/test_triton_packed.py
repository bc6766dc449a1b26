"""Packed networks of the Triton engine: which calls share a copy, on a stand-in for the GPU."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch
from problems import make_mlp

pytest.importorskip("triton")

from vgf_kernels import MLP
from vgf_kernels.triton import packed

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def launches(monkeypatch) -> list:
    """What is packed: the first argument of each launch, where the weights are."""
    found = []
    monkeypatch.setattr(packed, "launch", lambda kernel, grid, device, options, arguments, constants: found.append(arguments[0]))
    return found


@pytest.fixture
def capture(monkeypatch):
    """Calls are captured from now on, or no more."""

    def change(on: bool) -> None:
        monkeypatch.setattr(packed, "is_capturing", lambda device: on)

    return change


def module() -> torch.nn.Sequential:
    return torch.nn.Sequential(torch.nn.Linear(5, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))


def pack(mlp: MLP, actions: int = 2, timed: bool = False, precision: str = "fp32"):
    return packed.up_to_date(mlp, actions, timed, precision, "ieee", CPU)


def test_a_live_network_is_packed_at_every_call_into_one_copy(launches):
    mlp = MLP.from_torch(module())
    assert pack(mlp) is pack(mlp)
    assert len(launches) == 2


def test_a_frozen_one_is_packed_once_and_serves_captured_calls(launches, capture):
    mlp = MLP.from_torch(module()).freeze()
    before = pack(mlp)
    capture(True)
    assert pack(mlp) is before
    assert len(launches) == 1


def test_what_was_never_packed_is_packed_by_the_graph(launches, capture):
    mlp = MLP.from_torch(module()).freeze()
    pack(mlp)
    capture(True)
    in_graph = pack(mlp, precision="bf16")
    capture(False)
    assert pack(mlp, precision="bf16") is not in_graph
    assert len(launches) == 3


@pytest.mark.parametrize("frozen", [False, True])
def test_what_a_copy_depends_on(frozen):
    mlp = MLP.from_torch(module())
    mlp = mlp.freeze() if frozen else mlp
    copies = [pack(mlp), pack(mlp, actions=3), pack(mlp, timed=True), pack(mlp, precision="bf16")]
    assert len({id(copy) for copy in copies}) == 4


@pytest.mark.parametrize("frozen", [False, True])
def test_two_threads_that_pack_a_network_for_the_first_time(monkeypatch, frozen):
    """Of a frozen one they take the first copy, which a graph may have captured; of a live one each takes its own, since a
    write to the weights may lie between."""
    mlp = MLP.from_torch(module())
    mlp = mlp.freeze() if frozen else mlp
    first = []

    def meanwhile(*arguments):
        if not first:
            first.append(None)
            first[0] = pack(mlp)

    monkeypatch.setattr(packed, "launch", meanwhile)
    second = pack(mlp)
    assert (second is first[0]) == frozen
    assert pack(mlp) is second


def exported(network: torch.nn.Module, description: str) -> MLP:
    """The MLP of a program that another process exported."""
    return MLP.from_graph([p.detach() for p in network.parameters()], -2, description)


def test_networks_that_share_an_mlp_have_copies_of_their_own(launches, capture):
    """Those of exported programs do: its handle and architecture are alike in every process."""
    networks = [module(), module()]
    description = MLP.from_torch(networks[0]).description
    first, second = (pack(exported(network, description)) for network in networks)
    assert first is not second
    capture(True)
    for network in networks:
        pack(exported(network, description))
    assert launches[0] is launches[2] and launches[1] is launches[3]


def test_old_tables_are_dropped():
    mlp = MLP.from_torch(module())
    tables = []
    for _ in range(packed.TABLES + 1):
        for parameter in mlp.tensors():
            parameter.data = parameter.data.clone()
        tables.append(weakref.ref(packed._table(mlp, CPU, False)))
    assert [table() is not None for table in tables] == [False] + [True] * packed.TABLES


@pytest.mark.parametrize("captures", [False, True])
def test_a_captured_table_outlives_the_parameters_it_names(captures):
    """A graph's replay reads the table at its address, whatever has become of the parameters since."""
    mlp = MLP.from_torch(module())
    table = weakref.ref(packed._table(mlp, CPU, False))
    assert packed._table(mlp, CPU, captures) is table()
    for _ in range(packed.TABLES):
        for parameter in mlp.tensors():
            parameter.data = parameter.data.clone()
        packed._table(mlp, CPU, False)
    assert (table() is not None) == captures


def test_a_parameter_transposed_where_it_lies(launches):
    """At the same address, with the same shape and the same bytes, in another order."""
    network = torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
    mlp = MLP.from_torch(network)
    for strides in ([1, 16], [16, 1]):
        pack(mlp)
        assert launches[-1][0, 1:3].tolist() == strides
        network[0].weight.data = network[0].weight.data.t()


def test_parameters_of_another_dtype_in_the_same_memory():
    network, memory = module(), torch.zeros(2 * 16 * 5)
    mlp = MLP.from_torch(network)
    network[0].weight.data = memory[:80].view(16, 5)
    pack(mlp)
    network[0].weight = torch.nn.Parameter(memory.view(torch.bfloat16)[:80].view(16, 5))
    with pytest.raises(TypeError, match="layer 0, W: the triton engine computes float32, got bfloat16"):
        pack(mlp)


def test_a_vector_that_is_strided():
    network = module()
    network[0].bias.data = torch.zeros(32)[::2]
    with pytest.raises(ValueError, match=r"layer 0, b: expected a contiguous vector, got stride 2; use .contiguous\(\)"):
        pack(MLP.from_torch(network))


def test_what_a_table_holds():
    """What its kernel reads and nobody else keeps: no parameters, which would outlive their module."""
    network = module()
    assert not packed._table(MLP.from_torch(network), CPU, False).held
    network[0].bias = None
    assert set(packed._table(MLP.from_torch(network), CPU, False).held) == {(0, 0, "b")}


@pytest.mark.parametrize(("hidden", "most"), [((64, 64), 8000), ((64,), 3000)])
def test_networks_too_large_for_their_offsets(monkeypatch, hidden, most):
    """By their hidden layers, or by the first and the last."""
    monkeypatch.setattr(packed, "LARGEST", most)
    mlp = make_mlp(np.random.default_rng(0), (5, *hidden, 1), 1, "relu", "none")
    with pytest.raises(ValueError, match=rf"expected at most {most} elements, got \d+ for widths .*; split the ensemble"):
        pack(mlp)


def test_weights_that_moved_before_a_capture(capture):
    mlp = MLP.from_torch(module())
    pack(mlp)
    for parameter in mlp.tensors():
        parameter.data = parameter.data.clone()
    capture(True)
    with pytest.raises(RuntimeError, match="parameters have moved since the last call.*call the function once"):
        pack(mlp)
