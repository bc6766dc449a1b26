"""The CUDA engine on a GPU: golden files, settings, precisions, graphs, streams and devices."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import plain_torch
import processes
import pytest
from accuracy import Expected, expect_all, relative_error
from problems import make_problem
from test_accuracy import CONFIG, SETTINGS, config_of
from test_cpu_golden import (  # noqa: F401
    golden,
    test_direction,
    test_flow,
    test_sample,
    test_value,
    test_value_and_grad,
)
from test_cuda_emulated import plain_bf16
from test_cuda_hopper import SHARES, expected

from vgf_kernels import cuda
from vgf_kernels.mlp import ACTIVATIONS, NORMS

torch = pytest.importorskip("torch")
vgf = pytest.importorskip("vgf_kernels.torch")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
    pytest.mark.skipif(cuda.missing() is not None, reason=f"the cuda engine: {cuda.missing()}"),
]


class OnDevice:
    """The torch frontend on the CUDA engine, called with NumPy arrays."""

    def __init__(self, device="cuda", **settings):
        self.device, self.settings = device, {"backend": "cuda", "precision": "fp32"} | settings

    def __getattr__(self, name):
        function = getattr(vgf, name)

        def call(*args, **kwargs):
            args = [self.array(a) for a in args]
            kwargs = {key: self.array(a) for key, a in kwargs.items()}
            result = function(*args, **self.settings, **kwargs)
            return tuple(map(host, result)) if isinstance(result, tuple) else host(result)

        return call

    def array(self, argument):
        if isinstance(argument, np.ndarray):
            return torch.tensor(argument, device=self.device)
        if callable(argument):  # a score function
            return lambda x: self.array(argument(host(x)))
        return argument


def host(tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()


@pytest.fixture
def cpu():
    """What the golden tests call."""
    return OnDevice()


def everything(functions, p, config=CONFIG):
    """A list of results of every function."""
    return [
        functions.value(p.critic, p.obs, p.particles),
        *functions.value_and_grad(p.critic, p.obs, p.particles, "min"),
        functions.direction(p.critic, p.obs, p.particles, config),
        functions.flow(p.critic, p.obs, p.particles, config, trajectory=True),
        functions.sample(p.policy, p.obs, p.noise, 4),
        functions.act(p.critic, p.policy, p.obs, p.noise, 4, config, "softmax", select_noise=p.select_noise),
        functions.td_target(
            p.critic,
            p.target_critic,
            p.policy,
            p.obs,
            p.noise,
            p.reward,
            p.mask,
            0.97,
            4,
            config,
            "min",
            "max",
        ),
        functions.transport(lambda x: x * x - x, p.particles, config),
    ]


def check_everything(functions, p, config=CONFIG):
    expected = expect_all(lambda f, p: everything(f, p, config), p)
    for wanted, got in zip(expected, everything(functions, p, config)):
        wanted.check_share(got)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_networks(activation, norm):
    check_everything(
        OnDevice(), make_problem(B=4, N=10, E=3, hidden=(64, 33, 48), activation=activation, norm=norm)
    )


@pytest.mark.parametrize("N", [10, 300])
@pytest.mark.parametrize("setting", SETTINGS)
def test_settings(setting, N):
    check_everything(OnDevice(), make_problem(B=5, N=N, A=4, seed=1), config_of(setting))


@pytest.mark.parametrize(
    "sizes",
    [
        {"hidden": (1,)},
        {"hidden": (33, 300, 17)},
        {"hidden": (512,) * 4, "N": 10, "A": 8, "O": 29},
        {"hidden": (2048, 1024), "B": 1},
        {"B": 1, "N": 1, "A": 1, "O": 0, "E": 1},
        {"B": 700, "N": 10},
        {"B": 2, "N": 129, "A": 33},
        {"E": 13},
    ],
    ids=str,
)
def test_sizes(sizes):
    check_everything(OnDevice(), make_problem(**sizes))


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
@pytest.mark.parametrize("N", [10, 100, 300])
def test_low_precisions(precision, N):
    """No further from float64 than twice torch's own low precision on this device."""
    p = make_problem(B=20, N=N, hidden=(512, 512), activation="silu")
    got = OnDevice(precision=precision).value_and_grad(p.critic, p.obs, p.particles)
    obs, x = (torch.tensor(a, device="cuda") for a in (p.obs, p.particles))
    exact = p.at(np.float64)
    with torch.device("cuda"), torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16"):
        before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = True
        try:
            plain = [
                plain_torch.value(p.critic, obs, x),
                plain_torch.gradient(p.critic, obs, x, "mean"),
            ]
        finally:
            torch.backends.cuda.matmul.allow_tf32 = before
    from vgf_kernels import reference

    wanted = reference.value_and_grad(exact.critic, exact.obs, exact.particles)
    for result, truth, other in zip(got, wanted, plain):
        Expected(truth, [host(other.float())]).check(result)


@pytest.mark.skipif(
    torch.cuda.is_available() and torch.cuda.get_device_capability() != (9, 0),
    reason="needs a GPU of compute capability 9.0",
)
@pytest.mark.parametrize(
    "sizes",
    [
        {"B": 3000, "hidden": (512,) * 4},
        {"B": 256, "hidden": (512,) * 4},  # two critics at once
        {"B": 3001, "N": 7, "E": 3, "hidden": (64, 300, 33), "activation": "gelu", "norm": "none"},
        {"B": 300, "E": 1, "hidden": (512, 384), "activation": "mish"},
    ],
    ids=str,
)
@pytest.mark.parametrize("precision", SHARES)
def test_hopper(sizes, precision):
    """Batches go to its tile kernels: right, and the same again."""
    p = make_problem(**{"N": 10, "A": 8, "O": 29, "activation": "silu"} | sizes)
    engine = OnDevice(precision=precision)
    target = (0.97, 4, CONFIG, "min", "mean")

    def results():
        return [
            *engine.value_and_grad(p.critic, p.obs, p.particles),
            engine.td_target(
                p.critic, p.target_critic, p.policy, p.obs, p.noise, p.reward, p.mask, *target
            ),
        ]  # fmt: skip

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        first = results()
    kernels = [event.key for event in profile.key_averages() if "tile_kernel" in event.key]
    assert kernels and all("hopper_tile_kernel" in name for name in kernels)
    few = replace(p, **{name: getattr(p, name)[:12] for name in ("obs", "particles", "noise", "reward", "mask")})
    exact, reference = few.at(np.float64), vgf_reference()
    q, dq = reference.value_and_grad(exact.critic, exact.obs, exact.particles)
    expected(precision, q, plain_torch.value, few).check(first[0][:, :12])
    expected(precision, dq, plain_torch.gradient, few, "mean").check(first[1][:12])
    wanted = reference.td_target(
        exact.critic, exact.target_critic, exact.policy, exact.obs, exact.noise, exact.reward, exact.mask, *target
    )
    # Adam turns a gradient near zero into a whole step, in float32, too
    assert relative_error(first[2][:12], wanted) < 0.02 * max(SHARES[precision], 2.0**-8)
    for one, two in zip(first, results()):
        np.testing.assert_array_equal(one, two)


@pytest.mark.skipif(
    torch.cuda.is_available() and torch.cuda.get_device_capability() != (9, 0),
    reason="needs a GPU of compute capability 9.0",
)
@pytest.mark.parametrize(
    "sizes",
    [
        {"B": 1, "hidden": (512,) * 4},
        {"B": 20, "hidden": (512,) * 4, "norm": "none"},  # sixteen blocks a cluster
        {"B": 5, "E": 1, "hidden": (512, 300, 33), "activation": "gelu"},  # eight
        {"B": 5, "N": 32, "E": 3, "hidden": (64, 230), "activation": "mish"},
        {"B": 1, "N": 1, "hidden": (17,)},
    ],
    ids=str,
)
def test_hopper_latency(sizes):
    """Few states go to the kernel that keeps the weights: right, the same again, and one launch."""
    p = make_problem(**{"N": 10, "A": 8, "O": 29, "activation": "silu"} | sizes)
    engine = OnDevice(precision="bf16")

    def results():
        return [
            *engine.value_and_grad(p.critic, p.obs, p.particles),
            engine.flow(p.critic, p.obs, p.particles, CONFIG),
            engine.act(p.critic, p.policy, p.obs, p.noise, 4, CONFIG),
            engine.td_target(
                p.critic, p.target_critic, p.policy, p.obs, p.noise, p.reward, p.mask, 0.97, 4, CONFIG, "min", "mean"
            ),
        ]

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        first = results()
    ran = {event.key: event.count for event in profile.key_averages() if "_kernel" in event.key}
    assert sum(count for name, count in ran.items() if "hopper_latency_kernel" in name) == 4
    assert not [name for name in ran if "tile_kernel" in name]
    exact = p.at(np.float64)
    wanted = vgf_reference().value_and_grad(exact.critic, exact.obs, exact.particles)
    plain = plain_bf16(plain_torch.value, p), plain_bf16(plain_torch.gradient, p, "mean")
    for got, truth, other in zip(first, wanted, plain):
        assert relative_error(got, truth) <= 2 * relative_error(other, truth) + 1e-3
    for one, two in zip(first, results()):
        np.testing.assert_array_equal(one, two)


def test_the_exact_median_of_many_particles():
    p = make_problem(B=2, N=3000, A=2, hidden=(16,))
    for config in (CONFIG, replace(CONFIG, bandwidth_grad=True)):

        def direction(functions, p, config=config):
            return functions.direction(p.critic, p.obs, p.particles, config)

        Expected(direction(vgf_reference(), p.at(np.float64)), [direction(vgf_reference(), p)]).check(
            direction(OnDevice(), p)
        )


def test_more_pairs_than_32_bits_count():
    """Groups of equal particles, so that distances, their median and all sums are known."""
    places, sizes = np.array([0.0, 1.0, 3.0]), np.array([66_000, 66_000, 1_000])
    N = sizes.sum()
    d2 = (places[:, None] - places) ** 2
    entries = np.argsort(d2, axis=None)
    counts = np.cumsum(np.outer(sizes, sizes).flat[entries])
    middles = [d2.flat[entries[np.searchsorted(counts, rank, "right")]] for rank in ((N * N - 1) // 2, N * N // 2)]
    gamma = 1 / (1e-6 + 2 * np.mean(middles) / (2 * np.log(N + 1)))
    r = 2 * gamma * ((np.exp(-gamma * d2) * (places[:, None] - places)) @ sizes)
    config = replace(CONFIG, num_steps=1, optimizer="sgd", learning_rate=1e4, clip=None)  # phi is small
    wanted = np.repeat(places + config.learning_rate * r / N, sizes).reshape(1, N, 1)
    x = np.repeat(places, sizes).reshape(1, N, 1).astype(np.float32)
    got = OnDevice().transport(np.zeros_like, x, config)
    assert relative_error(got - x, wanted - x) < 1e-5


def vgf_reference():
    from vgf_kernels import reference

    return reference


@pytest.mark.parametrize("N", [10, 300])
def test_a_captured_graph_replays_with_new_contents(N):
    p, other = make_problem(B=5, N=N, seed=3), make_problem(B=5, N=N, seed=4)
    modules = [m.cuda() for m in p.critic.to_torch()]
    critic = vgf.MLP.from_torch(modules)
    obs, x = torch.tensor(p.obs, device="cuda"), torch.tensor(p.particles, device="cuda")

    def flow():
        return vgf.flow(critic, obs, x, CONFIG, backend="cuda", precision="fp32")

    flow()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = flow()
    obs.copy_(torch.tensor(other.obs))
    x.copy_(torch.tensor(other.particles))
    with torch.no_grad():
        for module in modules:
            for weight in module.parameters():
                weight.mul_(0.9)  # packed anew by every replay
    graph.replay()
    replayed = host(out)
    np.testing.assert_array_equal(replayed, host(flow()))


FIRST_CALL = """
import torch
import vgf_kernels.torch as vgf
from problems import make_problem
p = make_problem(B=5, N={N}, hidden=(64, 48))
critic = vgf.MLP.from_torch([module.cuda() for module in p.critic.to_torch()])
obs, x = torch.tensor(p.obs, device="cuda"), torch.tensor(p.particles, device="cuda")
config = vgf.FlowConfig(num_steps=2, learning_rate=0.05, alpha=0.3)
graph = torch.cuda.CUDAGraph()
with torch.cuda.graph(graph):
    out = vgf.flow(critic, obs, x, config, backend="cuda", precision="bf16")
graph.replay()
assert torch.equal(out, vgf.flow(critic, obs, x, config, backend="cuda", precision="bf16"))
"""


@pytest.mark.parametrize("N", [10, 300])
def test_the_first_call_of_a_process_may_be_captured(N):
    """Its kernels are loaded then."""
    processes.run(FIRST_CALL.format(N=N))


def test_the_current_stream_orders_the_work():
    p = make_problem(B=64, N=10, hidden=(256, 256))
    obs, x = torch.tensor(p.obs, device="cuda"), torch.tensor(p.particles, device="cuda")
    wanted = vgf.flow(p.critic, obs, x, CONFIG, backend="cuda", precision="fp32")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        late = torch.zeros_like(x)
        torch.cuda._sleep(50_000_000)
        late.copy_(x)
        got = vgf.flow(p.critic, obs, late, CONFIG, backend="cuda", precision="fp32")
    stream.synchronize()
    np.testing.assert_array_equal(host(got), host(wanted))


def test_several_threads():
    """Calls of several sizes at once, so of kernels and shared memory of several sizes, give what they give alone."""
    problems = [make_problem(B=B, N=N, hidden=(256, 256)) for B, N in ((1, 10), (400, 10), (3, 130), (2000, 10))]
    arrays = [[torch.tensor(a, device="cuda") for a in (p.obs, p.particles)] for p in problems]

    def flows(index):
        with torch.cuda.stream(torch.cuda.Stream()):
            critic = problems[index].critic
            return [
                vgf.flow(critic, *arrays[index], CONFIG, backend="cuda", precision=precision)
                for _ in range(10)
                for precision in ("bf16", "fp32")
            ]

    torch.cuda.synchronize()
    alone = [flows(i) for i in range(len(problems))]
    with ThreadPoolExecutor(len(problems)) as pool:
        together = list(pool.map(flows, range(len(problems))))
    torch.cuda.synchronize()
    for wanted, got in zip(alone, together):
        for a, b in zip(wanted, got):
            np.testing.assert_array_equal(host(a), host(b))


def test_nothing_waits_for_the_device():
    p = make_problem(B=64, N=10)
    critic = vgf.MLP.from_torch([module.cuda() for module in p.critic.to_torch()])
    policy = vgf.MLP.from_torch(p.policy.to_torch().cuda())
    obs, noise = torch.tensor(p.obs, device="cuda"), torch.tensor(p.noise, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        vgf.act(critic, policy, obs, noise, 3, CONFIG, backend="cuda")
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_several_devices():
    p = make_problem()
    with torch.cuda.device(0):
        on_other = everything(OnDevice("cuda:1"), p)
    for wanted, got in zip(everything(OnDevice("cuda:0"), p), on_other):
        assert relative_error(got, wanted) < 1e-5


def test_weights_on_another_device_are_refused():
    p = make_problem()
    critic = vgf.MLP.from_torch(list(p.critic.to_torch()))
    with pytest.raises(
        ValueError, match=r"weights: member 0, layer 0, W: expected the device of the arrays, cuda:0"
    ):
        OnDevice().value(critic, p.obs, p.particles)


def test_a_frozen_network_first_used_in_the_graphs_of_torch_compile():
    """Whose first run allocates in a graph's memory: what is kept must not be there."""
    p = make_problem(B=20, N=6)
    obs, particles = (torch.tensor(a, device="cuda") for a in (p.obs, p.particles))
    settings = {"backend": "cuda", "precision": "fp32"}
    wanted = vgf.flow(p.critic.freeze(), obs, particles, CONFIG, **settings)
    frozen = p.critic.freeze()
    fast = torch.compile(
        lambda obs, x: vgf.flow(frozen, obs, x, CONFIG, **settings) + 0, fullgraph=True, mode="reduce-overhead"
    )
    for _ in range(4):
        torch.compiler.cudagraph_mark_step_begin()
        assert torch.equal(fast(obs, particles), wanted)


def test_a_gradient_in_the_graphs_of_torch_compile():
    """Its backward pass has an operator that looks at a value, which torch has to leave out of its graphs."""
    if not hasattr(torch.Tag, "cudagraph_unsafe"):
        pytest.skip("this torch has no tag for operators that no graph can hold")
    p = make_problem(B=20, N=6)
    obs, particles = (torch.tensor(a, device="cuda") for a in (p.obs, p.particles))

    def values(obs, x):
        return vgf.value_and_grad(p.critic, obs, x, backend="cuda", precision="fp32")

    fast = torch.compile(values, fullgraph=True, mode="reduce-overhead")
    wanted = values(obs, particles)[1]
    for _ in range(4):
        torch.compiler.cudagraph_mark_step_begin()
        leaf = particles.clone().requires_grad_()
        fast(obs, leaf)[0].mean(0).sum().backward()
        torch.testing.assert_close(leaf.grad, wanted)
