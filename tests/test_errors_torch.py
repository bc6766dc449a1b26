"""Tensors that no engine takes, although they are of the right type and shape."""

from __future__ import annotations

import pytest
import torch
from problems import make_problem

import vgf_kernels.torch as vgf
from vgf_kernels import MLP

PROBLEM = make_problem(B=3, N=4, A=2, O=5, E=2)
OBS, X = torch.from_numpy(PROBLEM.obs), torch.from_numpy(PROBLEM.particles)


def test_tensors_without_a_memory_of_their_own():
    critic = PROBLEM.critic
    with pytest.raises(TypeError, match=r"obs: expected a dense tensor, got torch.sparse_coo; pass obs.to_dense"):
        vgf.value(critic, OBS.to_sparse(), X)
    for backend in ("cpu", "reference"):
        with pytest.raises(RuntimeError, match=r"expected tensors in memory.*vmap.*the states B are a batch already"):
            torch.func.vmap(lambda o, a, backend=backend: vgf.value(critic, o[None], a[None], backend=backend))(OBS, X)
    for transform in (torch.func.grad, torch.func.jacrev):
        with pytest.raises(RuntimeError, match=r"actions: expected a tensor, got one of a transform; torch.func's .*"):
            transform(lambda a: vgf.value(critic, OBS, a, backend="cpu").sum())(X)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors():
    with pytest.raises(TypeError, match="actions: expected a dense tensor, got a nested one"):
        vgf.value(PROBLEM.critic, OBS, torch.nested.nested_tensor(list(X)))


def test_whole_numbers():
    with pytest.raises(TypeError, match=r"q: expected floating point numbers, got torch.int64; cast them to float32"):
        vgf.select(torch.zeros(2, 3, 4, dtype=torch.int64))


def test_weights_on_another_device():
    module = PROBLEM.critic.to_torch().to("meta")
    with pytest.raises(ValueError, match="expected the CPU for CPU arrays, got meta; move"):
        vgf.value(MLP.from_torch(module), OBS, X, backend="cpu")
