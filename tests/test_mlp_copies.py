"""What is made of an MLP that reads torch modules: modules and trees of its weights, snapshots, copies."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from test_mlp_torch import A, O, check_reads, sequential
from torch import nn

from vgf_kernels import MLP
from vgf_kernels.mlp import ACTIVATIONS, NORMS


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_to_torch(activation, norm):
    module = sequential(activation, norm, eps=0.1)
    back = MLP.from_torch(module).to_torch()
    assert isinstance(back, nn.Sequential)
    x = torch.randn(7, O + A)
    torch.testing.assert_close(back(x), module(x), rtol=0, atol=0)
    assert all(p.requires_grad for p in back.parameters())


def test_an_ensemble():
    modules = [sequential(norm="pre", seed=s) for s in range(2)]
    back = MLP.from_torch(modules).to_torch()
    assert isinstance(back, nn.ModuleList)
    check_reads(MLP.from_torch(back), modules)


def test_the_weights_are_copied():
    module = sequential()
    back = MLP.from_torch(module).to_torch()
    with torch.no_grad():
        back[0].weight.zero_()
    assert module[0].weight.abs().sum() > 0


def test_from_torch_to_flax_and_back():
    module = sequential("gelu", "pre")
    mlp = MLP.from_torch(module)
    back = MLP.from_flax(mlp.to_flax(), activation="gelu", norm_eps=mlp.norm_eps)
    check_reads(back, [module])


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda mlp: pickle.loads(pickle.dumps(mlp))])
def test_copies_stand_on_their_own(duplicate):
    module = sequential()
    mlp = MLP.from_torch(module)
    check_reads(mlp, [module])
    twin = duplicate(mlp)
    before = copy.deepcopy(module)
    with torch.no_grad():
        module[0].weight.zero_()
    check_reads(twin, [before])
    check_reads(mlp, [module])


def test_a_module_that_cannot_be_pickled():
    class Local(nn.Sequential):
        """Which pickle would not find by its name."""

    module = nn.Sequential(Local(*sequential()))
    check_reads(pickle.loads(pickle.dumps(MLP.from_torch(module))), [module])


def test_a_member_is_a_snapshot():
    module = sequential()
    member = MLP.from_torch([module, sequential(seed=1)]).member(0)
    before = np.array(member.members[0][0].W)
    module[0].weight.data.zero_()
    np.testing.assert_array_equal(member.members[0][0].W, before)


def test_snapshots_keep_the_settings():
    module = sequential("silu", "post", eps=0.1)
    mlp = MLP.from_torch(module)
    for snapshot in (mlp.freeze(), mlp.member(0)):
        check_reads(snapshot, [module])


def test_modules_do_not_share_a_snapshots_memory():
    mlp = MLP.from_torch(sequential()).freeze()
    before = np.array(mlp.members[0][0].b)
    with torch.no_grad():
        for parameter in mlp.to_torch().parameters():
            parameter.zero_()
    np.testing.assert_array_equal(mlp.members[0][0].b, before)
