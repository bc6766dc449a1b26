"""Differentiating through the library's value, against plain torch in float64."""

from __future__ import annotations

import numpy as np
import plain_torch
import pytest
import torch
from accuracy import Expected
from problems import layers_of, make_problem
from test_mlp_torch import inputs, sequential
from torch.autograd import forward_ad

import vgf_kernels.torch as vgf
from vgf_kernels import MLP, FlowConfig, reference
from vgf_kernels.mlp import ACTIVATIONS, NORMS

LOSSES = {
    "mean": lambda q: q.mean(0).sum(),
    "min": lambda q: q.amin(0).sum(),
    "softmax": lambda q: torch.logsumexp(q, dim=0).square().sum(),
    "one critic": lambda q: q[1].sum(),
    "one particle": lambda q: q[:, 0, 1].sum() * 3,
}

SECOND_ORDER = "expected first-order differentiation.*got second order.*; detach dq, or use plain torch"


def gradient_of(value, critic, obs, actions, loss):
    actions = actions.detach().requires_grad_()
    loss(value(critic, obs, actions)).backward()
    return actions.grad


@pytest.mark.parametrize("loss", LOSSES)
def test_gradient_of_a_loss_on_value(loss):
    p = make_problem(E=3)
    obs, x = torch.from_numpy(p.obs), torch.from_numpy(p.particles)
    exact = gradient_of(plain_torch.value, p.critic, obs.double(), x.double(), LOSSES[loss])
    plain = gradient_of(plain_torch.value, p.critic, obs, x, LOSSES[loss])
    for backend in ("cpu", "reference"):
        got = gradient_of(lambda *a, b=backend: vgf.value(*a, backend=b), p.critic, obs, x, LOSSES[loss])
        Expected(exact.numpy(), [plain.numpy()]).check(got.numpy())


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_a_tie_shares_the_gradient_that_value_and_grad_returns(backend):
    """Two equal critics and a larger one: the gradient is that of one of the two, not their sum."""
    p = make_problem(E=1)
    (layers,) = layers_of(p.critic)
    above = [*layers[:-1], {**layers[-1], "b": layers[-1]["b"] + 1}]
    critic = MLP.from_layers([layers, layers, above], norm=p.critic.norm, norm_eps=p.critic.norm_eps)
    _, exact = reference.value_and_grad(p.at(np.float64).critic, *(a.astype(np.float64) for a in (p.obs, p.particles)))
    x = torch.from_numpy(p.particles).requires_grad_()
    _, dq = vgf.value_and_grad(critic, torch.from_numpy(p.obs), x, "min", backend=backend)
    np.testing.assert_allclose(dq.detach(), exact, rtol=0, atol=1e-5 * np.abs(exact).max())


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradcheck(activation, norm):
    """torch's own check by finite differences, in float64 on the reference."""
    p = make_problem(B=2, N=2, A=2, O=3, E=2, hidden=(6, 5), activation=activation, norm=norm).at(np.float64)
    obs, x = torch.from_numpy(p.obs), torch.from_numpy(p.particles).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: vgf.value(p.critic, obs, x, backend="reference"), x)
    assert torch.autograd.gradcheck(
        lambda x: vgf.value_and_grad(p.critic, obs, x, "min", backend="reference")[0], x
    )


def test_the_gradient_goes_on_into_a_policy():
    """Deterministic policy gradient: the loss reaches the parameters of the network that made the actions."""
    critic, policy = sequential("silu", "pre"), torch.nn.Linear(5, 3)
    obs, _ = inputs()

    def policy_gradient(q):
        policy.zero_grad()
        q(policy(obs).tanh()[:, None]).mean().backward()
        return policy.weight.grad.clone()

    mlp = MLP.from_torch(critic)
    got = policy_gradient(lambda a: vgf.value(mlp, obs, a))
    wanted = policy_gradient(lambda a: critic(torch.cat([obs[:, None], a], dim=-1)))
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-6)


def test_both_outputs_of_value_and_grad():
    p = make_problem()
    obs, x = torch.from_numpy(p.obs), torch.from_numpy(p.particles).requires_grad_()
    q, dq = vgf.value_and_grad(p.critic, obs, x, "min")
    plain_q, plain_dq = vgf.value_and_grad(p.critic, obs, x.detach(), "min")
    torch.testing.assert_close(q.detach(), plain_q, rtol=0, atol=0)
    torch.testing.assert_close(dq.detach(), plain_dq, rtol=1e-5, atol=1e-6)
    (grad,) = torch.autograd.grad(q.amin(0).sum(), x)
    torch.testing.assert_close(grad, plain_dq, rtol=1e-5, atol=1e-6)


def test_no_second_order():
    p = make_problem()
    obs, x = torch.from_numpy(p.obs), torch.from_numpy(p.particles).requires_grad_()
    _, dq = vgf.value_and_grad(p.critic, obs, x)
    with pytest.raises(NotImplementedError, match=SECOND_ORDER):
        dq.square().sum().backward()
    q = vgf.value(p.critic, obs, x)
    (grad,) = torch.autograd.grad(q.sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match=SECOND_ORDER):
        torch.autograd.grad(grad.square().sum(), x)


def test_a_gradient_penalty_with_dq_detached():
    p = make_problem()
    obs, x = torch.from_numpy(p.obs), torch.from_numpy(p.particles).requires_grad_()
    q, dq = vgf.value_and_grad(p.critic, obs, x)
    (q.sum() + dq.detach().square().sum()).backward()
    _, wanted = vgf.value_and_grad(p.critic, obs, x.detach())
    torch.testing.assert_close(x.grad, 2 * wanted, rtol=1e-5, atol=1e-6)  # two critics, summed


def test_observations_have_no_gradient():
    p = make_problem()
    obs, x = torch.from_numpy(p.obs).requires_grad_(), torch.from_numpy(p.particles)
    with pytest.raises(ValueError, match=r"obs: expected .* does not require grad.*; pass obs.detach\(\)"):
        vgf.value(p.critic, obs, x)
    with torch.no_grad():
        vgf.value(p.critic, obs, x)


def test_the_critics_parameters_are_constants():
    module = sequential()
    obs, x = inputs()
    vgf.value(MLP.from_torch(module), obs, x.requires_grad_()).sum().backward()
    assert all(p.grad is None for p in module.parameters())
    assert not vgf.value(MLP.from_torch(module), obs, x.detach()).requires_grad


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_without_autograd(off):
    p = make_problem()
    obs, x = torch.from_numpy(p.obs), torch.from_numpy(p.particles)
    wanted = vgf.value(p.critic, obs, x)
    with off():
        got = vgf.value(p.critic, obs, x.clone().requires_grad_())
    assert not got.requires_grad
    assert torch.equal(got, wanted)


def test_what_is_a_constant():
    """Everything else takes and gives constants: particles that require grad go in, none come out."""
    p = make_problem()
    obs, x, noise = (torch.from_numpy(a).requires_grad_() for a in (p.obs, p.particles, p.noise))
    reward, mask = torch.from_numpy(p.reward), torch.from_numpy(p.mask)
    config = FlowConfig(num_steps=2)
    results = [
        vgf.direction(p.critic, obs, x, config),
        vgf.flow(p.critic, obs, x, config),
        vgf.sample(p.policy, obs, noise, 3),
        vgf.act(p.critic, p.policy, obs, noise, 3, config),
        vgf.td_target(p.critic, p.target_critic, p.policy, obs, noise, reward, mask, 0.9, 3, config),
        vgf.transport(lambda x: -x, x, config),
        vgf.transport(lambda x: -x, x, config, trajectory=True),
    ]
    assert not any(result.requires_grad for result in results)
    assert torch.equal(results[1], vgf.flow(p.critic, obs.detach(), x.detach(), config))


def test_a_score_by_autograd():
    """transport along the gradient of any torch function."""
    p = make_problem(activation="silu")
    obs, x = torch.from_numpy(p.obs), torch.from_numpy(p.particles)
    config = FlowConfig(num_steps=3, learning_rate=0.1, alpha=0.2)

    def score(x):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            (dq,) = torch.autograd.grad(plain_torch.value(p.critic, obs, x).mean(0).sum(), x)
        return dq

    got = vgf.transport(score, x, config)
    wanted = plain_torch.flow(p.critic, obs.double(), x.double(), config)
    assert ((got - wanted).abs() < 1e-3).double().mean() >= 0.99


def test_values_under_autograd_are_of_the_precision_asked_for():
    p = make_problem()
    obs, x = torch.from_numpy(p.obs), torch.from_numpy(p.particles)
    wanted = vgf.value(p.critic, obs, x, precision="bf16")
    assert torch.equal(vgf.value(p.critic, obs, x.clone().requires_grad_(), precision="bf16"), wanted)
    assert not torch.equal(wanted, vgf.value(p.critic, obs, x))


@pytest.mark.parametrize("aggregate", ["mean", "min"])
def test_the_gradient_is_the_same_under_autograd(aggregate):
    p = make_problem(E=3)
    obs, x = torch.from_numpy(p.obs), torch.from_numpy(p.particles)
    _, dq = vgf.value_and_grad(p.critic, obs, x.clone().requires_grad_(), aggregate)
    torch.testing.assert_close(dq.detach(), vgf.value_and_grad(p.critic, obs, x, aggregate)[1])


@pytest.mark.parametrize("name", ["obs", "actions"])
def test_forward_mode_is_refused(name):
    p = make_problem()
    tensors = {"obs": torch.from_numpy(p.obs), "actions": torch.from_numpy(p.particles)}
    with forward_ad.dual_level():
        tensors[name] = forward_ad.make_dual(tensors[name], torch.ones_like(tensors[name]))
        with pytest.raises(RuntimeError, match=f"{name}: expected a tensor, got a dual one of forward mode"):
            vgf.value(p.critic, **tensors)
