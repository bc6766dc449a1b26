"""The Triton engine: on a GPU, and (by test_triton_interpreter.py) on CPU tensors under Triton's interpreter."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import plain_torch
import pytest
import torch
from accuracy import Expected, expect, relative_error
from engines import Engine
from problems import make_problem
from test_accuracy import SETTINGS, config_of
from test_independence import results

import vgf_kernels.triton
from vgf_kernels import MLP, FlowConfig, reference
from vgf_kernels.mlp import ACTIVATIONS, NORMS

triton = pytest.importorskip("triton")
import triton.language as tl

from vgf_kernels.triton.products import operand

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
CONFIG = FlowConfig(num_steps=2, learning_rate=0.1, alpha=0.3)

_missing = vgf_kernels.triton.missing()
pytestmark = (
    []
    if INTERPRETED
    else [
        pytest.mark.gpu,
        pytest.mark.skipif(
            _missing is not None, reason=f"{_missing}; test_triton_interpreter.py runs these without"
        ),
    ]
)


@pytest.fixture
def engine(monkeypatch) -> Engine:
    """The engine through the torch frontend."""
    if INTERPRETED:
        monkeypatch.setattr(vgf_kernels.triton, "DEVICE", "cpu")
        monkeypatch.setattr(vgf_kernels.triton, "missing", lambda: None)
        return Engine("torch", "triton")
    torch.set_float32_matmul_precision("highest")
    return Engine("torch", "triton", "cuda")


class Precise:
    """The functions of an engine, all called with one precision."""

    def __init__(self, engine: Engine, precision: str) -> None:
        self._engine, self._precision = engine, precision

    def __getattr__(self, name):
        function = getattr(self._engine, name)
        return lambda *args, **kwargs: function(*args, **kwargs, precision=self._precision)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_networks(engine, activation, norm):
    p = make_problem(B=3, N=5, E=2, hidden=(20, 33), activation=activation, norm=norm)
    for part in (0, 1):

        def run(functions, p, part=part):
            return functions.value_and_grad(p.critic, p.obs, p.particles, "min")[part]

        expect(run, p).check(run(engine, p))

    def sample(functions, p):
        return functions.sample(p.policy, p.obs, p.noise, 2)

    expect(sample, p).check(sample(engine, p))


@pytest.mark.parametrize("setting", SETTINGS)
def test_settings(engine, setting):
    p = make_problem(B=3, N=6, A=4, hidden=(20,), seed=1)
    config = replace(config_of(setting), num_steps=2)

    def flow(functions, p):
        return functions.flow(p.critic, p.obs, p.particles, config)

    def transport(functions, p):
        return functions.transport(lambda x: x * x - x, p.particles, config, trajectory=True)

    expect(flow, p).check_share(flow(engine, p))
    expect(transport, p).check_share(transport(engine, p))


@pytest.mark.parametrize(
    "sizes",
    [
        {"hidden": (1,), "O": 0, "A": 1, "N": 1},
        {"hidden": (17, 1, 33), "A": 17, "E": 1, "N": 2},
        {"hidden": (600, 33), "N": 3, "E": 1, "norm": "post", "activation": "tanh"},
        {"hidden": (1030,), "N": 3, "E": 1},
        {"hidden": (16, 16), "O": 40, "A": 21, "N": 11, "E": 3},
        {"hidden": (16,), "B": 23, "N": 3},
        {"hidden": (16,), "B": 2, "N": 33, "A": 2},
        {"hidden": (16,), "B": 70, "N": 1, "A": 2},
    ],
)
def test_sizes(engine, sizes):
    p = make_problem(**sizes)

    def gradient(functions, p):
        return functions.value_and_grad(p.critic, p.obs, p.particles)[1]

    def direction(functions, p):
        return functions.direction(p.critic, p.obs, p.particles, CONFIG)

    def sample(functions, p):
        return functions.sample(p.policy, p.obs, p.noise, 2, None)

    for run in (gradient, direction, sample):
        expect(run, p).check(run(engine, p))


def test_launches(engine, monkeypatch):
    """A flow is one launch whatever its length, act and td_target are three, a frozen network is packed once."""
    from vgf_kernels.triton import engine as functions
    from vgf_kernels.triton import packed

    launched = []

    def launch(kernel, *arguments):
        launched.append(kernel.__name__)
        run(kernel, *arguments)

    run = functions.launch
    monkeypatch.setattr(functions, "launch", launch)
    monkeypatch.setattr(packed, "launch", launch)
    monkeypatch.setenv("VGF_TRITON_AUTOTUNE", "0")
    p = make_problem(B=5, N=4, E=3, hidden=(16,))
    states, steps = (p.obs, p.noise), replace(CONFIG, num_steps=4)
    rest = (p.reward, p.mask, 0.9, 2, steps)
    for calls, wanted in (
        (lambda: engine.flow(p.critic, *states, steps, trajectory=True), ["flow"]),
        (lambda: engine.sample(p.policy, *states, 4), ["sample"]),
        (lambda: engine.act(p.critic, p.policy, *states, 2, steps), ["sample", "flow", "act"]),
        (
            lambda: engine.td_target(p.critic, p.target_critic, p.policy, *states, *rest),
            ["sample", "flow", "td_target"],
        ),
    ):
        calls()  # packs what has not been packed
        launched.clear()
        calls()
        assert launched == wanted
    live = MLP.from_torch(critic_module())
    launched.clear()
    engine.act(live, p.policy, *states, 2, steps)
    assert launched == ["sample", "pack", "flow", "act"]


def test_under_torch_compile(engine):
    """One graph without a break, around the engine's one operator."""
    vgf = pytest.importorskip("vgf_kernels.torch")
    p, device = make_problem(B=3, N=4, hidden=(16,)), "cpu" if INTERPRETED else "cuda"
    critic = MLP.from_torch(critic_module())
    obs, x = (torch.from_numpy(a).to(device) for a in (p.obs, p.particles))

    def move(obs, x):
        return 2 * vgf.flow(critic, obs, x, CONFIG, backend="triton").tanh()

    compiled = torch.compile(move, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(obs, x), move(obs, x))


def critic_module():
    """A live critic for O = 5 and A = 3."""
    module = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
    return module if INTERPRETED else module.cuda()


def test_changed_weights_of_a_live_module_are_seen(engine):
    module, p = critic_module(), make_problem()
    live = MLP.from_torch(module)
    for _ in range(3):
        with torch.no_grad():
            module[0].weight.data *= 1.5
            module[2].bias += 1
            x = torch.from_numpy(np.concatenate([np.repeat(p.obs[:, None], 7, 1), p.particles], -1))
            wanted = module(x.to(module[0].weight.device))[..., 0].cpu().numpy()
        np.testing.assert_allclose(engine.value(live, p.obs, p.particles)[0], wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bandwidth_grad", [False, True])
@pytest.mark.parametrize("N", [67, 68])
def test_more_particles_than_a_tile(engine, N, bandwidth_grad):
    """An odd and an even number; some in one place, so that many distances are equal to the median."""
    p = make_problem(B=2, N=N, A=2, E=1, hidden=(16,), activation="tanh")
    config = replace(CONFIG, bandwidth_grad=bandwidth_grad)

    def direction(functions, p):
        return functions.direction(p.critic, p.obs, p.particles, config)

    expect(direction, p).check(direction(engine, p))
    p.particles[1, 1:56] = p.particles[1, 0]
    expect(direction, p).check(direction(engine, p))

    # One step: particles in one place that then differ by a rounding repel each other 2e6 times that far (N = 67, sigma 0).
    def transport(functions, p):
        return functions.transport(lambda x: x * x - x, p.particles, replace(config, num_steps=1))

    expect(transport, p).check_share(transport(engine, p))


class TestOneCall:
    problem = make_problem(B=12, N=6, hidden=(20,), seed=2)

    @pytest.mark.parametrize("select", ["max", "softmax", "uniform"])
    def test_act(self, engine, select):
        p = self.problem

        def run(functions, p):
            return functions.act(
                p.critic, p.policy, p.obs, p.noise, 2, CONFIG, select, "min",
                temperature=0.5, select_noise=None if select == "max" else p.select_noise,
            )  # fmt: skip

        expect(run, p).check_share(run(engine, p))

    @pytest.mark.parametrize(("aggregate", "reduce"), [("mean", "mean"), ("min", "max")])
    def test_td_target(self, engine, aggregate, reduce):
        p = self.problem

        def run(functions, p):
            return functions.td_target(
                p.critic, p.target_critic, p.policy, p.obs, p.noise, p.reward, p.mask, 0.97, 2, CONFIG,
                aggregate, reduce,
            )  # fmt: skip

        expect(run, p).check_share(run(engine, p))


@pytest.mark.parametrize("precision", ["bf16", "tf32"])
@pytest.mark.parametrize("norm", NORMS)
def test_low_precision(engine, precision, norm):
    """No further from float64 than twice plain torch at that precision."""
    p = make_problem(B=6, N=10, E=2, hidden=(64, 48), activation="gelu", norm=norm)
    q, dq = Precise(engine, precision).value_and_grad(p.critic, p.obs, p.particles)
    exact = p.at(np.float64)
    exact_q, exact_dq = reference.value_and_grad(exact.critic, exact.obs, exact.particles)
    Expected(exact_q, _plain(plain_torch.value, p, precision)).check(q)
    Expected(exact_dq, _plain(plain_torch.gradient, p, precision, "mean")).check(dq)


def _plain(function, p, precision, *args):
    """A function of plain_torch on the problem's states; where torch has no tf32, on networks rounded to it."""
    if precision == "tf32" and INTERPRETED:
        rounded = [p.rounded(2.0**-11, seed) for seed in range(8)]
        return [_run(function, q, "fp32", *args) for q in rounded]
    return [_run(function, p, precision, *args)]


def _run(function, p, precision, *args):
    obs, x = torch.from_numpy(p.obs), torch.from_numpy(p.particles)
    if precision == "bf16":
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return function(p.critic, obs, x, *args).float().numpy()
    if precision == "fp32":
        return function(p.critic, obs, x, *args).numpy()
    torch.set_float32_matmul_precision("high")
    try:
        return function(p.critic, obs.cuda(), x.cuda(), *args).cpu().numpy()
    finally:
        torch.set_float32_matmul_precision("highest")


def test_flow_in_bf16(engine):
    """By sgd: Adam makes full steps of differences that bf16 cannot tell from zero."""
    p = make_problem(B=8, N=10, hidden=(32, 32))
    config = replace(CONFIG, optimizer="sgd")
    exact = p.at(np.float64)
    wanted = reference.flow(exact.critic, exact.obs, exact.particles, config)
    moved = Precise(engine, "bf16").flow(p.critic, p.obs, p.particles, config)
    Expected(wanted, _plain(plain_torch.flow, p, "bf16", config)).check(moved)


@triton.jit
def _operands(x, out, COUNT: tl.constexpr, PRODUCTS: tl.constexpr):
    at = tl.arange(0, COUNT)
    tl.store(out + at, operand(tl.load(x + at), PRODUCTS))


def test_operands_of_tf32_are_rounded_to_nearest(engine):
    """Tensor cores would cut them off. Ties go away from zero, as the PTX ISA has it for cvt.rna.tf32; NaN stays."""
    tie = 1 + 2.0**-11
    special = [0.0, -0.0, tie, -tie, tie - 2.0**-23, tie + 2.0**-23, np.inf, -np.inf, np.nan, 2.0**-130]
    x = np.array([*special, *np.random.default_rng(0).normal(size=54)], np.float32)
    mantissa, exponent = np.frexp(x[10:].astype(np.float64))
    nearest = np.ldexp(np.round(mantissa * 2**11), exponent - 11)
    given = torch.from_numpy(x).to(engine.device)
    for products in ("ieee", "tf32"):
        out = torch.empty_like(given)
        _operands[1,](given, out, 64, products)
        got = out.cpu().numpy()
        if products == "ieee":
            np.testing.assert_array_equal(got, x)
            continue
        up = np.float32(1 + 2.0**-10)
        np.testing.assert_array_equal(got[:9], np.float32([0, 0, up, -up, 1, up, np.inf, -np.inf, np.nan]))
        np.testing.assert_array_equal(got[10:], nearest)


def test_precision_follows_torchs_setting(engine):
    p = make_problem(hidden=(64, 64))
    try:
        torch.set_float32_matmul_precision("medium")
        q = engine.value(p.critic, p.obs, p.particles)
    finally:
        torch.set_float32_matmul_precision("highest")
    bf16 = Precise(engine, "bf16").value(p.critic, p.obs, p.particles)
    full = engine.value(p.critic, p.obs, p.particles)
    np.testing.assert_array_equal(q, bf16)
    assert 1e-5 < relative_error(bf16, full) < 1e-1


def test_states_are_independent(engine):
    p = make_problem(B=7, N=5, hidden=(16,))
    together = results(engine, p)
    for state in (0, 6):
        for whole, alone in zip(together, results(engine, p, slice(state, state + 1))):
            np.testing.assert_allclose(whole[state], alone[0], rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(not INTERPRETED, reason="the order of a GPU's programs cannot be chosen")
@pytest.mark.parametrize("norm", NORMS)
def test_neither_the_order_of_programs_nor_old_memory_matters(engine, norm, monkeypatch):
    """Each of the two programs takes two tiles in the same scratch memory, whose rows and columns they do not fill."""
    from triton.runtime.interpreter import interpreter_builder

    p = make_problem(B=12, N=5, E=2, hidden=(20, 33), norm=norm)
    wanted = results(engine, p)
    place, empty = interpreter_builder.set_grid_idx, torch.empty
    monkeypatch.setattr(
        interpreter_builder, "set_grid_idx", lambda x, y, z: place(interpreter_builder.grid_dim[0] - 1 - x, y, z)
    )
    monkeypatch.setattr(torch, "empty", lambda *size, **kind: empty(*size, **kind).fill_(float("nan")))
    for one, other in zip(wanted, results(engine, p), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(("bad", "activation"), [(np.nan, "relu"), (np.inf, "gelu")])
def test_a_non_finite_input_stays_in_its_state(engine, bad, activation):
    p = make_problem(B=6, N=3, hidden=(16,), activation=activation)
    poisoned = replace(p, obs=p.obs.copy())
    poisoned.obs[2, 1] = bad
    others = np.array([0, 1, 3, 4, 5])
    for wanted, got in zip(results(engine, p), results(engine, poisoned)):
        np.testing.assert_array_equal(got[others], wanted[others])
    assert np.isnan(engine.flow(poisoned.critic, poisoned.obs, poisoned.particles, CONFIG)[2]).all()


def test_another_module_in_the_place_of_one_that_was_read_is_an_error(engine):
    module = torch.nn.Sequential(torch.nn.Linear(3, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1)).to(engine.device)
    critic = MLP.from_torch(module)
    arrays = np.zeros((2, 1), np.float32), np.zeros((2, 3, 2), np.float32)
    engine.value(critic, *arrays)
    module[0] = torch.nn.Linear(3, 16).to(engine.device)
    with pytest.raises(ValueError, match="'0' of the module that MLP.from_torch has read is another one by now"):
        engine.value(critic, *arrays)


def test_a_view_that_is_negative(engine):
    p = make_problem(N=3, hidden=(16,))
    wanted = engine.flow(p.critic, p.obs, p.particles, CONFIG)
    critic, obs, x = p.critic, *(torch._neg_view(engine.array(-a)) for a in (p.obs, p.particles))
    got = engine.module.flow(critic, obs, x, CONFIG, backend="triton")
    np.testing.assert_array_equal(got.cpu().numpy(), wanted)


@pytest.mark.parametrize("num_steps", [0, 1])
def test_the_path_of_a_large_state_is_a_constant(engine, num_steps):
    p = make_problem(B=1, N=65, hidden=(16,))
    x = engine.array(p.particles).requires_grad_()
    config = replace(CONFIG, num_steps=num_steps)
    path = engine.module.flow(p.critic, engine.array(p.obs), x, config, trajectory=True, backend="triton")
    assert not path.requires_grad
    np.testing.assert_array_equal(path[0].cpu().numpy(), p.particles)
