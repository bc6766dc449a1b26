"""What torch has been told elsewhere in the program changes no result."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from problems import make_problem
from test_mlp_torch import inputs, sequential
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx

import vgf_kernels.torch as vgf
from vgf_kernels import MLP, reference
from vgf_kernels.torch import arrays, ops

CONFIG = vgf.FlowConfig(num_steps=2)


def td_target(p, obs, noise):
    reward, mask = obs[:, 0], obs[:, 1]
    networks = p.critic, p.target_critic, p.policy
    return vgf.td_target(*networks, obs, noise, reward, mask, 0.9, 3, CONFIG, backend="cpu")


@pytest.fixture
def problem():
    p = make_problem()
    return p, torch.from_numpy(p.obs), torch.from_numpy(p.noise)


def test_a_default_device(problem):
    """torch.set_default_device("cuda") is common; results of CPU tensors lie on the CPU all the same."""
    wanted = td_target(*problem)
    with torch.device("meta"):
        assert arrays.empty((1,)).device.type == "cpu"  # else the engine would write to nowhere
        got = td_target(*problem)
    assert torch.equal(got, wanted)


def test_autocast_and_the_default_dtype(problem):
    wanted = td_target(*problem)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = td_target(*problem)
    finally:
        torch.set_default_dtype(torch.float32)
    assert got.dtype == torch.float32
    assert torch.equal(got, wanted)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_a_traced_function_computes_again(problem):
    """torch.jit.trace records operators only: what wrote past it would be left out of the trace."""
    p, obs, noise = problem
    traced = torch.jit.trace(lambda obs, noise: td_target(p, obs, noise), (obs, noise))
    assert torch.equal(traced(obs, noise / 2), td_target(p, obs, noise / 2))


TRACED = {
    "sample": lambda p, obs, x: vgf.sample(p.policy, obs, x, 2),
    "direction": lambda p, obs, x: vgf.direction(p.critic, obs, x, CONFIG),
    "value": lambda p, obs, x: vgf.value(p.critic, obs, x),
    "gradient": lambda p, obs, x: vgf.value_and_grad(p.critic, obs, x)[1],
    "flow": lambda p, obs, x: vgf.flow(p.critic, obs, x, CONFIG, trajectory=True),
    "act": lambda p, obs, x: vgf.act(p.critic, p.policy, obs, x, 2, CONFIG),
    "td_target": td_target,
    "transport": lambda p, obs, x: vgf.transport(torch.sin, x, CONFIG),
}


OTHERS = {
    "fewer observations": (lambda obs, x: (obs[:1], x), "the same number"),
    "shorter observations": (lambda obs, x: (obs[:, 1:], x), r"expected O \+ A = "),
    "longer observations": (lambda obs, x: (obs.repeat(1, 40), x), r"expected O \+ A = "),
    "fewer dimensions": (lambda obs, x: (obs, x[..., :-1]), r"expected O \+ A = "),
    "more dimensions": (lambda obs, x: (obs, x.repeat(1, 1, 20)), r"expected O \+ A = "),
    "no states": (lambda obs, x: (obs[:0], x[:0]), r"at least one in every axis of \[B, N, A\], got B=0"),
    "no particles": (lambda obs, x: (obs, x[:, :0]), r"at least one in every axis of \[B, N, A\], got N=0"),
    "another dtype": (lambda obs, x: (obs.double(), x), "obs: expected the dtype of "),
}
# Both keep no guards: what they have recorded takes whatever it is called with.
RECORD = {
    "trace": lambda run, *arrays: torch.jit.trace(run, arrays),
    "make_fx": lambda run, *arrays: make_fx(run)(*arrays),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("function", [name for name in TRACED if name != "transport"])
@pytest.mark.parametrize("record", RECORD)
def test_a_recorded_call_looks_at_its_arrays_again(problem, record, function, other):
    """The engine would read what is not there."""
    p, obs, noise = problem
    recorded = RECORD[record](lambda obs, x: TRACED[function](p, obs, x), obs, noise)
    change, message = OTHERS[other]
    if function == "sample":
        message = message.replace("A =", r"A \+ 1 =")
    with pytest.raises((ValueError, TypeError, RuntimeError), match=message):
        recorded(*change(obs, noise))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("function", TRACED)
@pytest.mark.parametrize("record", RECORD)
def test_a_recorded_call_takes_other_numbers_of_states_and_particles(problem, record, function):
    p, obs, noise = problem

    def run(obs, x):
        return TRACED[function](p, obs, x)

    recorded = RECORD[record](run, obs, noise)
    others = obs.repeat(3, 1), noise.repeat(3, 2, 1) / 2
    assert torch.equal(recorded(*others), run(*others))


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_a_recorded_transport_takes_other_dimensions(backend):
    def run(x):
        return vgf.transport(torch.sin, x, CONFIG, backend=backend)

    recorded = make_fx(run)(torch.rand(2, 4, 3))
    others = torch.rand(2, 5, 7)
    assert torch.equal(recorded(others), run(others))


def test_a_recorded_transport_of_transposed_particles():
    def run(x):
        return vgf.transport(torch.sin, x.mT, CONFIG, backend="cpu")

    x = torch.rand(2, 3, 4)
    assert torch.equal(make_fx(run)(x)(x), run(x))


@pytest.mark.parametrize(
    ("moment", "message"),
    [
        (torch.zeros(2, 4, 2), r"moment: expected shape \[B, N, A\] = \[2, 4, 3\], got \[2, 4, 2\]"),
        (torch.zeros(2, 3, 4).mT, "moment: expected a contiguous tensor of torch.float32 on cpu, since it is updated in place"),
        (torch.zeros(2, 4, 3, dtype=torch.float64), "got one of torch.float64"),
    ],
    ids=["shape", "strides", "dtype"],
)
def test_an_update_refuses_moments_that_it_cannot_write(moment, message):
    """Of a copy, the engine would lose what it wrote; of another size, write past it."""
    x, good = torch.rand(2, 4, 3), torch.zeros(2, 4, 3)
    for moments in ((moment, good), (good, moment)):
        with pytest.raises((TypeError, ValueError), match=message):
            ops.update(x, x, *moments, 1, *ops.pack_config(CONFIG), "cpu", None)
    with pytest.raises(ValueError, match="dq: expected shape"):
        ops.update(x, x[:, :1], good, good, 1, *ops.pack_config(CONFIG), "cpu", None)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_a_recorded_call_looks_at_its_noise_again(problem):
    p, obs, noise = problem

    def act(obs, x, u):
        return vgf.act(p.critic, p.policy, obs, x, 2, CONFIG, "softmax", select_noise=u)

    u = torch.full(noise.shape[:2], 0.5)
    traced = torch.jit.trace(act, (obs, noise, u))
    with pytest.raises((ValueError, RuntimeError), match="select_noise: expected "):
        traced(obs, noise, u[:, :-1])
    with pytest.raises((TypeError, RuntimeError), match="select_noise: expected the dtype of obs"):
        traced(obs, noise, u.double())


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("record", RECORD)
def test_a_recorded_call_says_which_frozen_network_it_is_of(problem, record):
    """In another process, its handle may be another one's."""
    p, obs, noise = problem
    recorded = RECORD[record](lambda obs, x: vgf.value(p.critic, obs, x), obs, noise)
    assert p.critic.description in str(recorded.graph)


@pytest.mark.parametrize("pre_dispatch", [False, True])
@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
@pytest.mark.parametrize("function", TRACED)
def test_make_fx_records_what_computes_again(problem, function, mode, pre_dispatch):
    """Also with real tensors, on which a call would go straight to the engine, unseen."""
    p, obs, noise = problem

    def run(obs, x):
        return TRACED[function](p, obs, x)

    graph = make_fx(run, tracing_mode=mode, pre_dispatch=pre_dispatch, _allow_non_fake_inputs=True)(obs, noise)
    others = obs.flip(0), noise.flip(0) / 2
    assert torch.equal(graph(*others), run(*others))
    assert not torch.equal(graph(*others), graph(obs, noise))


def test_a_score_function_may_ask_for_gradients_of_what_it_is_given(problem):
    """The result never requires grad, so neither does the path that the score was given steps of."""
    _, _, noise = problem

    def score(x):
        return torch.autograd.grad(x.requires_grad_().sin().sum(), x)[0]

    path = vgf.transport(score, noise, CONFIG, trajectory=True)
    assert not path.requires_grad
    assert torch.equal(path, vgf.transport(torch.cos, noise, CONFIG, trajectory=True))


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_a_view_that_is_negative(problem, backend):
    """Its memory holds the numbers with the other sign."""
    p, obs, noise = problem
    views = vgf.flow(p.critic, obs, torch._neg_view(noise), CONFIG, backend=backend)
    assert torch.equal(views, vgf.flow(p.critic, obs, -noise, CONFIG, backend=backend))


class Wrapped(torch.Tensor):
    """Stands for another tensor, as DTensor does: its own memory holds nothing."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, device=inner.device)

    def __init__(self, inner):
        self.inner = inner

    def __tensor_flatten__(self):
        return ["inner"], None

    @staticmethod
    def __tensor_unflatten__(parts, meta, size, stride):
        return Wrapped(parts["inner"])

    @classmethod
    def __torch_dispatch__(cls, function, types, arguments=(), keywords=None):
        def inner(x):
            return x.inner if isinstance(x, Wrapped) else x

        result = function(*map(inner, arguments), **(keywords or {}))
        return Wrapped(result) if isinstance(result, torch.Tensor) else result


NO_MEMORY = "expected tensors in memory, got a Wrapped without memory of its own; pass what it stands for"


def test_weights_that_stand_for_others():
    """As those that fully_shard leaves in the place of what was read."""
    module = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
    critic = vgf.MLP.from_torch(module)
    obs, noise = torch.zeros(2, 5), torch.zeros(2, 4, 3)
    vgf.value(critic, obs, noise, backend="cpu")
    for linear in (module[0], module[2]):
        linear.weight = torch.nn.Parameter(Wrapped(linear.weight.detach()))
    with pytest.raises(TypeError, match=NO_MEMORY):
        vgf.value(critic, obs, noise, backend="cpu")


def test_a_score_that_stands_for_another(problem):
    _, _, noise = problem
    with pytest.raises(TypeError, match=NO_MEMORY):
        vgf.transport(lambda x: Wrapped(torch.zeros_like(x)), noise, CONFIG, backend="cpu")


def test_a_tensor_whose_memory_was_given_back(problem):
    p, obs, noise = problem
    noise = noise.clone()
    noise.untyped_storage().resize_(0)
    with pytest.raises(TypeError, match="expected tensors in memory, got a Tensor without memory of its own"):
        vgf.value(p.critic, obs, noise, backend="cpu")


def test_states_without_observations():
    """Whose tensor has no memory, and needs none."""
    p = make_problem(O=0)
    obs, x = torch.zeros(len(p.obs), 0), torch.from_numpy(p.particles)
    for backend in ("cpu", "reference"):
        q = vgf.value(p.critic, obs, x, backend=backend).numpy()
        np.testing.assert_allclose(q, reference.value(p.critic, p.obs, p.particles), rtol=1e-5, atol=1e-5)


def test_constants_within_a_transform():
    """A target, though constant, is made of weights that belong to the transform's level."""
    module = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
    critic = vgf.MLP.from_torch(module)
    x = torch.zeros(2, 3, 2)

    def loss(weight):
        return (weight * vgf.value(critic, torch.zeros(2, 2), x, backend="cpu")).sum()

    with pytest.raises(RuntimeError, match="expected tensors in memory.*torch.func's vmap, grad and jvp cannot pass"):
        torch.func.grad(loss)(torch.ones(()))
    vgf.value(critic, torch.zeros(2, 2), x, backend="cpu")


@pytest.mark.parametrize("function", ["value", "value_and_grad"])
def test_transforms_are_refused_where_they_would_get_zeros(function):
    """torch.func under torch.compile, and forward mode, whose tensors do not say that they want a gradient."""
    obs, x = inputs()
    mlp = MLP.from_torch(sequential())

    def loss(x):
        q = getattr(vgf, function)(mlp, obs, x)
        return (q if function == "value" else q[0]).sum()

    torch.compiler.reset()
    for transformed in (torch.func.grad(loss), lambda x: torch.func.jvp(loss, (x,), (x,))[1]):
        with pytest.raises(Exception, match="torch.func's vmap, grad and jvp cannot pass"):
            torch.compile(transformed, backend="eager", fullgraph=True)(x)
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match="got a dual one of forward mode"):
        loss(forward_ad.make_dual(x, x))
