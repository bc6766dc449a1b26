"""Networks that the JAX frontend packs once: the same numbers, and what packed weights are refused for."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from test_jax_tracing import CONFIG, PARAMS, PROBLEM, expected_flow, flow, network

import vgf_kernels.jax as vgf
import vgf_kernels.numpy
from vgf_kernels.jax import platforms


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_packed_weights_give_the_same(precision):
    p = PROBLEM
    networks = [network(PARAMS[name]) for name in ("critic", "target_critic", "policy")]
    packed = [
        jax.jit(vgf.pack, static_argnames=("gradient", "precision"))(n, gradient=g, precision=precision)
        for n, g in zip(networks, (True, False, False))
    ]
    inputs = (p.obs, p.noise, p.reward, p.mask, 0.99, 4, CONFIG)
    np.testing.assert_array_equal(
        vgf.td_target(*packed, *inputs), vgf.td_target(*networks, *inputs, precision=precision)
    )
    assert [n.weights.dtype for n in packed] == [np.uint8] * 3
    assert packed[0].widths == p.critic.widths


def test_packed_weights_are_a_pytree():
    packed = vgf.pack(network(PARAMS["critic"]))
    assert len(jax.tree.leaves(packed)) == 1
    again = jax.jit(lambda x: x)(packed)
    np.testing.assert_array_equal(flow(again, PROBLEM.particles), expected_flow())


def test_packing_of_a_value_needs_no_gradient():
    critic = network(PARAMS["critic"])
    small, large = vgf.pack(critic, gradient=False), vgf.pack(critic)
    assert small.weights.size < large.weights.size
    wanted = vgf_kernels.numpy.value(PROBLEM.critic, PROBLEM.obs, PROBLEM.particles)
    np.testing.assert_array_equal(vgf.value(small, PROBLEM.obs, PROBLEM.particles), wanted)
    with pytest.raises(
        ValueError, match="critic: expected weights packed with gradient=True, got gradient=False; "
    ):
        flow(small, PROBLEM.particles)


def test_packed_in_another_precision():
    packed = vgf.pack(network(PARAMS["critic"]), precision="bf16")
    with pytest.raises(ValueError, match="critic: expected weights packed in 'fp32', got 'bf16'; "):
        flow(packed, PROBLEM.particles, precision="fp32")


def test_what_cannot_be_packed():
    packed = vgf.pack(network(PARAMS["critic"]))
    with pytest.raises(TypeError, match="network: expected what `network` returned, got Packed"):
        vgf.pack(packed)
    with pytest.raises(ValueError, match="reference engine packs no weights"):
        vgf.pack(network(PARAMS["critic"]), backend="reference")
    with pytest.raises(ValueError, match="packed weights are a compiled engine's, .*; pass what `network`"):
        flow(packed, PROBLEM.particles, backend="reference")


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"gradient": 1}, TypeError, "gradient: expected True, False or None, got 1"),
        ({"role": "actor"}, ValueError, "role: expected one of 'critic', 'policy', 'score', got 'actor'"),
        ({"observations": -1}, ValueError, "observations: expected how many inputs are observations, got -1"),
        ({"observations": 5.0}, ValueError, "observations: expected how many inputs are observations, got 5.0"),
    ],
)
def test_settings_of_pack_that_make_no_sense(settings, error, message):
    with pytest.raises(error, match=message):
        vgf.pack(network(PARAMS["critic"]), **settings)


def test_the_platform_of_what_nobody_has_placed(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert platforms.default() == platforms.default_engine() == "cuda"
    for device in (jax.devices("cpu")[0], "cpu"):
        with jax.default_device(device):
            assert platforms.default() == "cpu"
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert (platforms.default(), platforms.default_engine()) == ("tpu", "cpu")


def test_bytes_of_another_network_are_refused():
    packed = vgf.pack(network(PARAMS["critic"]))
    wrong = vgf.Packed(packed.weights[:-64], packed.description)
    with pytest.raises(Exception, match="packed weights of another network"):
        jax.block_until_ready(flow(wrong, PROBLEM.particles))
