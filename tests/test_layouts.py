"""Arrays need not be contiguous: any view gives what its contiguous copy gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from problems import make_problem

import vgf_kernels.numpy
import vgf_kernels.torch
from vgf_kernels import FlowConfig

CONFIG = FlowConfig(num_steps=2, learning_rate=0.1, alpha=0.2)


def wider(array):
    """Every second element of an array twice as large along every axis."""
    big = np.zeros([2 * size for size in array.shape], array.dtype)
    view = big[tuple(slice(1, None, 2) for _ in array.shape)]
    view[...] = array
    return view


def transposed(array):
    return np.asfortranarray(array)


def backwards(array):
    """Negative strides along every axis."""
    flip = tuple(slice(None, None, -1) for _ in array.shape)
    return array[flip].copy()[flip]


def unaligned(array):
    """At an address that is no multiple of the element size."""
    memory = np.zeros(array.nbytes + 1, np.uint8)
    view = memory[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


def read_only(array):
    array = array.copy()
    array.setflags(write=False)
    return array


def torch_wider(array):
    return torch.from_numpy(wider(array))


def torch_transposed(array):
    axes = tuple(reversed(range(array.ndim)))
    return torch.from_numpy(np.ascontiguousarray(array.transpose(axes))).permute(axes)


def calls(module, p, view):
    """Every function that takes arrays, with `view` applied to each of them."""
    obs, x, noise, select_noise, reward, mask = map(
        view, (p.obs, p.particles, p.noise, p.select_noise, p.reward, p.mask)
    )
    backend = {"backend": "cpu"}
    yield module.value(p.critic, obs, x, **backend)
    yield from module.value_and_grad(p.critic, obs, x, **backend)
    yield module.direction(p.critic, obs, x, CONFIG, **backend)
    yield module.flow(p.critic, obs, x, CONFIG, **backend)
    yield module.flow(p.critic, obs, x, CONFIG, trajectory=True, **backend)
    yield module.sample(p.policy, obs, noise, 3, **backend)
    yield module.transport(lambda y: view(2 * np.asarray(y)), x, CONFIG, **backend)
    yield module.select(view(p.select_noise), **backend)
    yield module.act(
        p.critic, p.policy, obs, noise, 3, CONFIG, "softmax", select_noise=select_noise, **backend
    )
    yield module.td_target(
        p.critic, p.target_critic, p.policy, obs, noise, reward, mask, 0.9, 3, CONFIG, **backend
    )


@pytest.mark.parametrize("view", [wider, transposed, backwards, unaligned, read_only])
def test_numpy_views(view):
    p = make_problem(B=4, N=7, A=3, O=5)
    plain = calls(vgf_kernels.numpy, p, np.ascontiguousarray)
    for got, wanted in zip(calls(vgf_kernels.numpy, p, view), plain, strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_the_engine_is_given_no_address_that_is_no_multiple_of_four():
    """Which other processors than this may refuse to read from."""
    view = unaligned(np.ones((3, 4), np.float32))
    assert vgf_kernels.numpy.arrays.address(view) % 4 != 0
    assert vgf_kernels.numpy.arrays.address(vgf_kernels.numpy.arrays.contiguous(view)) % 4 == 0


@pytest.mark.parametrize("view", [torch_wider, torch_transposed])
def test_torch_views(view):
    p = make_problem(B=4, N=7, A=3, O=5)
    plain = calls(vgf_kernels.torch, p, torch.from_numpy)
    for got, wanted in zip(calls(vgf_kernels.torch, p, view), plain, strict=True):
        assert torch.equal(got, wanted)


def test_one_observation_spread_over_the_batch():
    p = make_problem(B=4)
    spread = np.broadcast_to(p.obs[:1], p.obs.shape)
    got = vgf_kernels.numpy.flow(p.critic, spread, p.particles, CONFIG, backend="cpu")
    np.testing.assert_array_equal(
        got, vgf_kernels.numpy.flow(p.critic, spread.copy(), p.particles, CONFIG, backend="cpu")
    )
    expanded = torch.from_numpy(p.obs[:1]).expand(4, -1)
    got_torch = vgf_kernels.torch.flow(
        p.critic, expanded, torch.from_numpy(p.particles), CONFIG, backend="cpu"
    )
    np.testing.assert_array_equal(got_torch.numpy(), got)


def test_results_are_contiguous_and_new():
    p = make_problem(B=4)
    for result in calls(vgf_kernels.numpy, p, transposed):
        assert result.flags.c_contiguous and result.flags.owndata and result.flags.writeable


@pytest.mark.parametrize("change", [transposed, backwards, wider, unaligned])
def test_weights_in_any_layout(change):
    from problems import change_layers

    p = make_problem()
    other = change_layers(
        p.critic, lambda layers: [{k: change(a) for k, a in layer.items()} for layer in layers]
    )
    np.testing.assert_array_equal(
        vgf_kernels.numpy.value(other, p.obs, p.particles, backend="cpu"),
        vgf_kernels.numpy.value(p.critic, p.obs, p.particles, backend="cpu"),
    )


def test_a_score_function_that_writes_into_the_particles():
    p = make_problem()

    def score(x):
        x *= 2
        return x

    moved = vgf_kernels.numpy.transport(score, p.particles, CONFIG, backend="cpu")
    wanted = vgf_kernels.numpy.transport(lambda x: 2 * x, p.particles, CONFIG, backend="cpu")
    np.testing.assert_array_equal(moved, wanted)
