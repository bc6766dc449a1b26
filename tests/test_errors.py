"""Bad input gets one exception that names the argument and says what was expected and what came.

Nothing has been written by then: the inputs are what they were.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from engines import Engine
from problems import layers_of, make_problem

from vgf_kernels import MLP, FlowConfig, reference

B, N, A, O, E = 3, 4, 2, 5, 2
PROBLEM = make_problem(B=B, N=N, A=A, O=O, E=E)
OTHER = make_problem(B=B, N=N, A=A + 1, O=O, E=E)  # networks of another action size
CONFIG = FlowConfig(num_steps=2)

ARGUMENTS = {
    "value": ("critic", "obs", "actions"),
    "value_and_grad": ("critic", "obs", "actions", "aggregate"),
    "direction": ("critic", "obs", "particles", "config"),
    "flow": ("critic", "obs", "particles", "config"),
    "sample": ("policy", "obs", "noise", "num_steps", "clip"),
    "select": ("q", "how", "aggregate", "temperature"),
    "act": (
        "critic", "policy", "obs", "noise", "euler_steps", "config", "select", "aggregate", "temperature",
    ),
    "td_target": (
        "critic", "target_critic", "policy", "next_obs", "noise", "reward", "mask", "discount", "euler_steps",
        "config", "aggregate", "reduce",
    ),
    "transport": ("score_fn", "particles", "config"),
}  # fmt: skip


def good() -> dict[str, Any]:
    """A good value for every argument there is."""
    p = PROBLEM
    return {
        "critic": p.critic, "target_critic": p.target_critic, "policy": p.policy,
        "obs": p.obs, "next_obs": p.obs, "actions": p.particles, "particles": p.particles, "noise": p.noise,
        "reward": p.reward, "mask": p.mask, "q": p.select_noise,
        "config": CONFIG, "num_steps": 3, "euler_steps": 3, "clip": (-1.0, 1.0), "discount": 0.99,
        "aggregate": "mean", "select": "max", "how": "max", "reduce": "mean", "temperature": 1.0,
        "score_fn": lambda x: x,
    }  # fmt: skip


@dataclass(frozen=True)
class Bad:
    """Change `arguments` of a good call, and `error` comes with a message that matches `message`."""

    arguments: dict[str, Any]
    message: str
    error: type[Exception] = ValueError
    extra: dict[str, Any] = field(default_factory=dict)  # optional arguments on top
    only: tuple[str, ...] = ()  # the functions it is about; by default all that take one of `arguments`


def zeros(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


def without_a_row(name):
    return {name: good()[name][:-1]}


CASES = {
    # rank
    "obs rank 1": Bad(
        {"obs": zeros(O)}, r"obs: expected rank 2, \[B, O\], got shape \[5\]; a single observation is obs\[None\]"
    ),
    "obs rank 3": Bad({"obs": zeros(B, 1, O)}, r"obs: expected rank 2, \[B, O\], got shape \[3, 1, 5\]; reshape it"),
    "next_obs rank 1": Bad({"next_obs": zeros(O)}, r"next_obs: expected rank 2, \[B, O\], got shape \[5\]; "),
    "actions rank 2": Bad(
        {"actions": zeros(B, A)},
        r"actions: expected rank 3, \[B, N, A\], got shape \[3, 2\]; actions\[:, None, :\] is one particle",
    ),
    "particles rank 2": Bad({"particles": zeros(B, A)}, r"particles: expected rank 3.* got shape \[3, 2\]; "),
    "noise rank 4": Bad({"noise": zeros(B, N, A, 1)}, r"noise: expected rank 3.* got shape \[3, 4, 2, 1\]; reshape it"),
    "q rank 1": Bad({"q": zeros(N)}, r"q: expected \[B, N\] or \[E, B, N\], got shape \[4\]; "),
    "q rank 4": Bad(
        {"q": zeros(1, E, B, N)}, r"q: expected \[B, N\] or \[E, B, N\], got shape \[1, 2, 3, 4\]; "
    ),
    # sizes that do not fit
    "B of obs": Bad(
        without_a_row("obs"), r"expected the same number of states B, got obs \[2, 5\] and \w+ \[3, 4, 2\]; "
    ),
    "more obs than states": Bad(
        {"obs": zeros(B + 1, O)}, r"expected the same number of states B, got obs \[4, 5\] and \w+ \[3, 4, 2\]; "
    ),
    "B of next_obs": Bad(
        without_a_row("next_obs"), r"expected the same number of states B, got next_obs \[2, 5\]"
    ),
    "B of reward": Bad(without_a_row("reward"), r"reward: expected shape \[B\] = \[3\], got \[2\]; "),
    "mask as a column": Bad({"mask": zeros(B, 1)}, r"mask: expected shape \[B\] = \[3\], got \[3, 1\]; "),
    "O of obs": Bad({"obs": zeros(B, O - 1)}, r"expected O \+ A.* = 4 \+ 2 .*inputs, got widths \(\d+, "),
    "A of actions": Bad(
        {"actions": zeros(B, N, A + 1)}, r"critic: expected O \+ A = 5 \+ 3 = 8 inputs, got widths \(7, "
    ),
    "A of particles": Bad(
        {"particles": zeros(B, N, A + 1)},
        r"critic: expected O \+ A = 5 \+ 3 = 8 inputs, got widths \(7, ",
        only=("direction", "flow"),
    ),
    "A of noise": Bad({"noise": zeros(B, N, A + 1)}, r"expected O \+ A.* = 5 \+ 3 .*inputs, got widths \("),
    "a critic of other sizes": Bad(
        {"critic": OTHER.critic}, r"critic: expected O \+ A = 5 \+ 2 = 7 inputs, got widths \(8, "
    ),
    "a target critic of other sizes": Bad(
        {"target_critic": OTHER.critic}, r"target_critic: expected O \+ A = 5 \+ 2 = 7"
    ),
    "a policy of other sizes": Bad(
        {"policy": OTHER.policy}, r"policy: expected O \+ A \+ 1 = 5 \+ 2 \+ 1 = 8 inputs, got"
    ),
    "a critic with two outputs": Bad(
        {
            "critic": MLP.from_layers(
                [[{"W": zeros(O + A, 4), "b": zeros(4)}, {"W": zeros(4, 2), "b": zeros(2)}]]
            )
        },
        r"critic: expected one output, got widths \(7, 4, 2\)",
    ),
    "a policy with one output": Bad(
        {
            "policy": MLP.from_layers(
                [[{"W": zeros(O + A + 1, 4), "b": zeros(4)}, {"W": zeros(4, 1), "b": zeros(1)}]]
            )
        },
        r"policy: expected A = 2 outputs, got widths \(8, 4, 1\)",
    ),
    "an ensemble of policies": Bad(
        {"policy": MLP.from_layers(2 * layers_of(PROBLEM.policy))},
        "policy: expected one member, got an ensemble of 2; ",
    ),
    "select_noise of the wrong shape": Bad(
        {"select": "softmax"},
        r"select_noise: expected shape \[B, N\] = \[3, 4\], got \[3\]; ",
        extra={"select_noise": zeros(B)},
    ),
    "select_noise that nothing asks for": Bad(
        {"select": "max"},
        r"select_noise: expected shape \[B, N\] = \[3, 4\], got \[3\]; ",
        extra={"select_noise": zeros(B)},
    ),
    # nothing to do
    "B = 0": Bad(
        {
            name: zeros(0, *good()[name].shape[1:])
            for name in ("obs", "actions", "particles", "noise", "next_obs")
        },
        r"expected at least one in every axis of \[B, N, A\], got B ?= ?0; ",
    ),
    "N = 0": Bad(
        {name: zeros(B, 0, A) for name in ("actions", "particles", "noise")},
        r"expected at least one in every axis of \[B, N, A\], got N ?= ?0; ",
    ),
    "A = 0": Bad(
        {name: zeros(B, N, 0) for name in ("actions", "particles", "noise")},
        r"expected at least one in every axis of \[B, N, A\], got A ?= ?0; ",
    ),
    "empty q": Bad({"q": zeros(B, 0)}, r"q: expected at least one in every axis, got shape \[3, 0\]; "),
    "no states in q": Bad({"q": zeros(0, N)}, r"q: expected at least one in every axis, got shape \[0, 4\]; "),
    "no critics in q": Bad({"q": zeros(0, B, N)}, r"q: expected at least one in every axis, got shape \[0, 3, 4\]; "),
    # kinds of objects
    "a list of lists": Bad({"obs": [[0.0] * O] * B}, r"obs: expected \w+, got list; ", TypeError),
    "no particles": Bad({"particles": None}, r"particles: expected \w+, got NoneType; ", TypeError),
    "a function as critic": Bad(
        {"critic": len}, r"critic: expected an MLP, got builtin_function_or_method; ", TypeError
    ),
    "no policy": Bad({"policy": None}, r"policy: expected an MLP, got NoneType; ", TypeError),
    "a dict as config": Bad(
        {"config": {"num_steps": 3}}, r"config: expected a FlowConfig, got dict; ", TypeError
    ),
    "an array as score": Bad(
        {"score_fn": PROBLEM.particles}, r"score_fn: expected a function.*got", TypeError
    ),
    "a step count as trajectory": Bad(
        {},
        "trajectory: expected True or False, got 3; ",
        TypeError,
        extra={"trajectory": 3},
        only=("flow", "transport"),
    ),
    # settings
    "aggregate": Bad({"aggregate": "max"}, "aggregate: expected one of 'mean', 'min', got 'max'"),
    "select": Bad({"select": "best"}, "select: expected one of 'max', 'softmax', 'uniform', got 'best'"),
    "how": Bad({"how": "best"}, "how: expected one of 'max', 'softmax', 'uniform', got 'best'"),
    "reduce": Bad({"reduce": "min"}, "reduce: expected one of 'mean', 'max', got 'min'"),
    "softmax without noise": Bad(
        {"select": "softmax"}, r"select_noise: expected an array \[B, N\].* got None; "
    ),
    "uniform without noise": Bad({"how": "uniform"}, r"noise: expected an array \[B, N\].* got None; "),
    "temperature 0": Bad({"temperature": 0.0}, "temperature: expected a finite number > 0, got 0.0; 1.0 is the default"),
    "temperature nan": Bad(
        {"temperature": float("nan")}, "temperature: expected a finite number > 0, got nan"
    ),
    "no Euler steps": Bad({"euler_steps": 0}, "euler_steps: expected an integer >= 1, got 0; "),
    "half an Euler step": Bad({"euler_steps": 2.5}, "euler_steps: expected an integer >= 1, got 2.5; .*a whole number"),
    "more Euler steps than can be counted": Bad(
        {"euler_steps": 2**31}, "euler_steps: expected at most 2147483647 steps, got 2147483648; "
    ),
    "Euler steps beyond 64 bits": Bad({"num_steps": 10**30}, "num_steps: expected at most 2147483647 steps, got 10+; "),
    "an array of Euler steps": Bad(
        {"euler_steps": zeros(2, dtype=int)}, r"euler_steps: expected an integer.*; use int\(euler_steps\)"
    ),
    "num_steps": Bad({"num_steps": -1}, "num_steps: expected an integer >= 1, got -1; "),
    "clip": Bad({"clip": (1.0, -1.0)}, r"clip: expected low < high, got \(1.0, -1.0\); "),
    "discount nan": Bad({"discount": float("nan")}, "discount: expected a finite number, got nan; "),
    "discount beyond float32": Bad({"discount": 1e40}, "discount: expected a finite number, got 1e\\+40; "),
    "discount below float32": Bad({"discount": -1e40}, "discount: expected a finite number, got -1e\\+40; "),
    "discount inf": Bad({"discount": float("inf")}, "discount: expected a finite number, got inf; "),
    "discounts by state": Bad(
        {"discount": zeros(B)}, "discount: expected a finite number, got .*; .*differs by state as discount=1.0, mask="
    ),
    "backend": Bad(
        {}, "backend: expected one of 'auto', .*'cpu', 'reference', got 'gpu'", extra={"backend": "gpu"}
    ),
    "precision": Bad({}, "precision: expected one of None, 'fp32', .*got 'fp8'", extra={"precision": "fp8"}),
    "a precision it lacks": Bad(
        {},
        "precision: the cpu engine has .*fp32.*, got 'tf32'; ",
        extra={"precision": "tf32", "backend": "cpu"},
        only=tuple(function for function in ARGUMENTS if function != "select"),  # which runs on no engine
    ),
    "an engine that is not there": Bad(
        {}, "backend 'cuda' is unavailable: .+; ", RuntimeError, extra={"backend": "cuda"}
    ),
}

CALLS = [
    (name, function)
    for name, bad in CASES.items()
    for function, arguments in ARGUMENTS.items()
    if (function in bad.only if bad.only else not bad.arguments or bad.arguments.keys() & set(arguments))
]


@pytest.fixture(params=["numpy", "torch", "jax"])
def frontend(request):
    return Engine(request.param, "cpu")


def call(frontend: Engine, function: str, arguments: dict[str, Any], **extra):
    """Call with every array the frontend's own; what is no array goes as it is."""
    converted = {
        name: frontend.array(a) if isinstance(a, np.ndarray) else a for name, a in (arguments | extra).items()
    }
    return getattr(frontend.module, function)(**converted)


@pytest.mark.parametrize(("case", "function"), CALLS, ids=[f"{function}-{case}" for case, function in CALLS])
def test_refused(frontend, case, function):
    bad, arguments = CASES[case], good()
    before = {name: a.copy() for name, a in arguments.items() if isinstance(a, np.ndarray)}
    wanted = {name: {**arguments, **bad.arguments}[name] for name in ARGUMENTS[function]}
    with pytest.raises(bad.error, match=bad.message):
        call(frontend, function, wanted, **bad.extra)
    for name, copy in before.items():
        np.testing.assert_array_equal(arguments[name], copy)


@pytest.mark.parametrize("function", ARGUMENTS)
def test_the_good_call_is_good(frontend, function):
    call(frontend, function, {name: good()[name] for name in ARGUMENTS[function]})


DTYPES = ["float64", "float16", "int32", "int64", "bool", "complex64"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("function", ["value", "flow", "act", "td_target", "transport"])
def test_a_dtype_the_engine_does_not_compute(frontend, function, dtype):
    arguments = {name: good()[name] for name in ARGUMENTS[function]}
    cast = {name: a.astype(dtype) if isinstance(a, np.ndarray) else a for name, a in arguments.items()}
    remedy = ' or pass backend="reference"' if dtype in ("float64", "float16") else ""
    with pytest.raises(
        TypeError, match=rf"cpu engine computes float32, got {dtype} arrays; cast them to float32{remedy}$"
    ):
        call(frontend, function, cast, backend="cpu")


@pytest.mark.parametrize("name", ["noise", "reward", "mask", "next_obs"])
def test_dtypes_that_differ(frontend, name):
    arguments = {name: good()[name] for name in ARGUMENTS["td_target"]}
    arguments[name] = arguments[name].astype(np.float64)
    with pytest.raises(
        TypeError, match=r"expected the dtype of \w+, (torch\.)?float\d\d, got (torch\.)?float\d\d; cast"
    ):
        call(frontend, "td_target", arguments)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("function", ["value", "act", "td_target"])
def test_weights_of_a_dtype_that_no_engine_here_computes(function, backend):
    halves = MLP.from_torch([member.bfloat16() for member in PROBLEM.critic.to_torch()])
    arguments = {name: good()[name] for name in ARGUMENTS[function]} | {"critic": halves}
    with pytest.raises(TypeError, match=rf"layer 0, W: the {backend} engine .*, got bfloat16; cast the weights to float32$"):
        call(Engine("torch", backend), function, arguments, backend=backend)


@pytest.mark.parametrize("frontend", ["numpy", "torch"])
@pytest.mark.parametrize("function", [name for name in ARGUMENTS if name not in ("select", "transport")])
def test_networks_of_the_jax_frontend(frontend, function):
    from vgf_kernels.jax import Network

    arguments = {name: good()[name] for name in ARGUMENTS[function]}
    theirs = {name: Network.from_mlp(a) for name, a in arguments.items() if isinstance(a, MLP)}
    with pytest.raises(TypeError, match=r"expected an MLP, got a Network of vgf_kernels.jax, .*; make one with"):
        call(Engine(frontend, "cpu"), function, arguments | theirs)


def test_networks_of_the_jax_frontend_in_a_graph():
    import torch

    from vgf_kernels.jax import Network

    obs, actions = torch.from_numpy(PROBLEM.obs), torch.from_numpy(PROBLEM.particles).requires_grad_()
    with pytest.raises(TypeError, match=r"expected an MLP, got a Network of vgf_kernels.jax"):
        Engine("torch", "cpu").module.value(Network.from_mlp(PROBLEM.critic), obs, actions)


def test_weights_of_another_dtype(frontend):
    p = PROBLEM.at(np.float64)
    with pytest.raises(
        TypeError, match=r"weights: (member 0, )?layer 0, W: the cpu engine computes float32, got float64; "
    ):
        call(frontend, "value", {"critic": p.critic, "obs": PROBLEM.obs, "actions": PROBLEM.particles})


@pytest.mark.parametrize(
    ("score", "error", "message"),
    [
        (
            lambda x: x[:, :1],
            ValueError,
            r"score_fn: expected shape \[B, N, A\] = \[3, 4, 2\], got \[3, 1, 2\]; ",
        ),
        (lambda x: x.sum(), (TypeError, ValueError), "score_fn: expected"),
        (lambda x: None, TypeError, r"score_fn: expected \w+, got NoneType"),
        (lambda x: [0.0], TypeError, r"score_fn: expected \w+, got list"),
    ],
)
def test_scores_that_are_refused(frontend, score, error, message):
    with pytest.raises(error, match=message):
        call(frontend, "transport", {"score_fn": score, "particles": PROBLEM.particles, "config": CONFIG})


def test_no_steps_are_asked_of_an_engine_that_cannot_run(frontend):
    arguments = {"score_fn": lambda x: x, "particles": PROBLEM.particles, "config": replace(CONFIG, num_steps=0)}
    with pytest.raises(ValueError, match="backend: expected one of"):
        call(frontend, "transport", arguments | {"backend": "cpux"})
    with pytest.raises(TypeError, match="computes float32, got float64"):
        call(frontend, "transport", arguments | {"particles": PROBLEM.particles.astype(np.float64), "backend": "cpu"})


@pytest.mark.parametrize("dtype", [np.int32, bool])
def test_values_that_are_no_floating_point_numbers(frontend, dtype):
    with pytest.raises(TypeError, match="q: expected floating point numbers, got .*; cast them to float32"):
        call(frontend, "select", {"q": np.ones((2, 3), dtype)})


def test_a_member_that_is_not_there():
    with pytest.raises(IndexError, match="member: expected a number below 2, got 2"):
        PROBLEM.critic.member(2)


def test_arrays_of_the_other_frontend():
    import torch

    import vgf_kernels.numpy
    import vgf_kernels.torch

    p = PROBLEM
    with pytest.raises(TypeError, match="obs: expected ndarray, got Tensor; "):
        vgf_kernels.numpy.value(p.critic, torch.from_numpy(p.obs), torch.from_numpy(p.particles))
    with pytest.raises(TypeError, match="obs: expected Tensor, got ndarray; "):
        vgf_kernels.torch.value(p.critic, p.obs, p.particles)


def test_a_device_without_an_engine():
    import torch

    import vgf_kernels.torch

    p = PROBLEM
    obs, x = torch.from_numpy(p.obs).to("meta"), torch.from_numpy(p.particles).to("meta")
    with pytest.raises(ValueError, match="backend 'cpu' computes on the CPU, got arrays on meta; move them"):
        vgf_kernels.torch.value(p.critic, obs, x, backend="cpu")
    with pytest.raises(RuntimeError, match="no engine serves arrays on meta .*; move"):
        vgf_kernels.torch.value(p.critic, obs, x)
    with pytest.raises(ValueError, match="actions: expected the device of obs, cpu, got meta; move"):
        vgf_kernels.torch.value(p.critic, torch.from_numpy(p.obs), x)


class Labelled(np.ndarray):
    """An array that means more than its numbers."""


@pytest.mark.parametrize("name", ["obs", "particles", "reward", "q", "score_fn"])
@pytest.mark.parametrize(
    "special", [lambda a: np.ma.masked_array(a, a > 0), lambda a: a.view(Labelled)], ids=["masked", "subclass"]
)
@pytest.mark.parametrize("frontend", ["numpy", "jax"])
def test_arrays_that_are_more_than_their_numbers(frontend, name, special):
    module = Engine(frontend, "cpu").module
    function = {"obs": "value", "reward": "td_target", "q": "select"}.get(name, "transport")
    arguments = {key: good()[key] for key in ARGUMENTS[function]}
    if name == "score_fn":
        arguments[name] = lambda x: special(np.zeros(x.shape, np.float32))
    else:
        arguments[name] = special(arguments[name])
    with pytest.raises(TypeError, match=rf"{name}: expected a plain ndarray, got (MaskedArray|Labelled), .*np.asarray"):
        getattr(module, function)(**arguments)


def test_masked_weights_are_refused():
    layers = layers_of(PROBLEM.critic)
    layers[0][0]["W"] = np.ma.masked_array(layers[0][0]["W"], layers[0][0]["W"] > 0)
    with pytest.raises(TypeError, match="weights: expected a plain ndarray, got MaskedArray"):
        MLP.from_layers(layers, norm="pre")


def test_arrays_in_a_file_are_plain(tmp_path):
    import vgf_kernels.numpy as vgf

    np.save(tmp_path / "obs.npy", PROBLEM.obs)
    mapped = np.load(tmp_path / "obs.npy", mmap_mode="r")
    q = vgf.value(PROBLEM.critic, mapped, PROBLEM.particles)
    np.testing.assert_array_equal(q, vgf.value(PROBLEM.critic, PROBLEM.obs, PROBLEM.particles))


@pytest.mark.parametrize("frontend", ["numpy", "jax"])
def test_byte_swapped_arrays_are_refused(frontend):
    module = Engine(frontend, "cpu").module
    swapped = replace(PROBLEM, obs=PROBLEM.obs.astype(">f4"), particles=PROBLEM.particles.astype(">f4"))
    with pytest.raises(TypeError, match="byte-swapped float32"):
        module.value(swapped.critic, swapped.obs, swapped.particles, backend="cpu")


@pytest.mark.parametrize("function", ["act", "transport", "select"])
def test_noise_and_scores_of_another_dtype(frontend, function):
    changes = {
        "act": {"select": "softmax", "select_noise": np.full((B, N), 0.5)},
        "transport": {"score_fn": lambda x: frontend.array(np.zeros((B, N, A)))},
        "select": {"how": "softmax", "noise": np.full((B, N), 0.5)},
    }
    arguments = {name: good()[name] for name in ARGUMENTS[function]} | changes[function]
    with pytest.raises(TypeError, match=r"expected the dtype of \w+, (torch\.)?float32, got (torch\.)?float64; cast"):
        call(frontend, function, arguments)


def test_counts_that_numpy_holds():
    import vgf_kernels.numpy as vgf

    p = PROBLEM
    np.testing.assert_array_equal(
        vgf.sample(p.policy, p.obs, p.noise, np.int64(3)), vgf.sample(p.policy, p.obs, p.noise, 3)
    )


@pytest.mark.parametrize(
    ("function", "change", "message"),
    [
        ("select", {"how": "argmax"}, "how: expected one of"),
        ("select", {"how": "softmax"}, r"noise: expected an array \[B, N\] uniform in \(0, 1\)"),
        ("td_target", {"reduce": "min"}, "reduce: expected one of"),
        ("value_and_grad", {"aggregate": "max"}, "aggregate: expected one of"),
        ("flow", {"obs": zeros(B + 1, O)}, "expected the same number of states"),
        ("sample", {"num_steps": 0}, "num_steps: expected an integer >= 1"),
        ("transport", {"particles": zeros(B, A)}, "particles: expected rank 3"),
    ],
)
def test_the_reference_refuses_too(function, change, message):
    arguments = {key: good()[key] for key in ARGUMENTS[function] if key in good()}
    with pytest.raises(ValueError, match=message):
        getattr(reference, function)(**arguments | change)
