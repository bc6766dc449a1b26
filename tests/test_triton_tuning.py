"""The choice of a configuration: measured once, remembered on disk, bounded, and off when told so. Needs no GPU."""

from __future__ import annotations

import json
import math
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from problems import make_mlp

pytest.importorskip("triton")

from vgf_kernels import MLP, FlowConfig
from vgf_kernels.triton import engine, packed, plan, tuning

H100 = plan.Gpu("H100", 132, 90, True)
CANDIDATES = plan.candidates(512, "bf16", 256, 10, H100)


class Clock:
    """Measures configurations by a table of seconds, and counts. Compiling one takes `compilation` seconds more."""

    now = 0.0

    def __init__(self, seconds, compilation=0.0) -> None:
        self.seconds, self.compilation, self.asked = seconds, compilation, []

    def __call__(self, config) -> float:
        seconds = self.seconds(config)
        Clock.now += (seconds if math.isfinite(seconds) else 0) + (self.compilation if config not in self.asked else 0)
        self.asked.append(config)
        return seconds


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VGF_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("VGF_TRITON_AUTOTUNE", raising=False)
    forget(monkeypatch)
    monkeypatch.setattr(tuning, "time", SimpleNamespace(monotonic=lambda: Clock.now))
    return tmp_path / "triton.json"


def forget(monkeypatch) -> None:
    """As in a new process."""
    monkeypatch.setattr(tuning, "chosen", {})


def favour(config):
    return Clock(lambda c: 1e-3 if c == config else 2e-3)


def test_the_fastest_is_taken_and_kept(cache, monkeypatch):
    best = CANDIDATES[2]
    assert tuning.choose(("a", 1), CANDIDATES, favour(best)) == best
    for fresh in (False, True):
        if fresh:
            forget(monkeypatch)
        clock = favour(CANDIDATES[1])
        assert tuning.choose(("a", 1), CANDIDATES, clock) == best
        assert clock.asked == []
    assert tuning.choose(("b", 1), CANDIDATES, favour(CANDIDATES[1])) == CANDIDATES[1]
    assert set(json.loads(cache.read_text())) == {"('a', 1)", "('b', 1)"}


def test_what_is_no_candidate_any_longer_is_not_taken(cache, monkeypatch):
    """A choice of another version of this library, say, that does not fit."""
    tuning.choose(("a", 1), CANDIDATES, favour(CANDIDATES[2]))
    forget(monkeypatch)
    left = [config for config in CANDIDATES if config != CANDIDATES[2]]
    assert tuning.choose(("a", 1), left, favour(left[1])) == left[1]


def test_measuring_is_bounded():
    clock = Clock(lambda _: 1e-3)
    tuning.choose(("a", 1), CANDIDATES, clock)
    assert len(clock.asked) == len(CANDIDATES) * tuning.REPEATS
    slow = Clock(lambda _: 30.0)
    assert tuning.choose(("b", 1), CANDIDATES, slow) == CANDIDATES[0]
    assert len(slow.asked) == 1


def test_a_choice_among_some_is_not_remembered(cache, monkeypatch):
    """What there was no time to compile may be faster; the next process finds the others compiled."""
    best = CANDIDATES[-1]
    slow = favour(best)
    slow.compilation = 0.9 * tuning.SECONDS
    assert tuning.choose(("a", 1), CANDIDATES, slow) in CANDIDATES[:2]
    assert set(slow.asked) == set(CANDIDATES[:2]) and not cache.exists()
    clock = favour(best)
    tuning.choose(("a", 1), CANDIDATES, clock)
    assert clock.asked == []  # in this process it holds
    forget(monkeypatch)
    assert tuning.choose(("a", 1), CANDIDATES, favour(best)) == best
    assert cache.exists()


def test_a_run_that_something_else_slowed_down_does_not_count():
    first = {config: 1.0 for config in CANDIDATES[:1]}
    clock = Clock(lambda config: first.pop(config, 1e-3 if config == CANDIDATES[0] else 2e-3))
    assert tuning.choose(("a", 1), CANDIDATES, clock) == CANDIDATES[0]


def test_threads_measure_one_after_the_other():
    under_way, at_once = [], []

    def measure(config) -> float:
        under_way.append(config)
        time.sleep(0.01)
        at_once.append(len(under_way))
        under_way.pop()
        return 1.0

    threads = [threading.Thread(target=tuning.choose, args=(("a", i % 2), CANDIDATES, measure)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert at_once == [1] * (2 * len(CANDIDATES) * tuning.REPEATS)  # those who waited for a choice take it


def test_what_cannot_run_is_not_taken():
    clock = Clock(lambda c: math.inf if c != CANDIDATES[1] else 1.0)
    assert tuning.choose(("a", 1), CANDIDATES, clock) == CANDIDATES[1]


def test_off(cache, monkeypatch):
    monkeypatch.setenv("VGF_TRITON_AUTOTUNE", "0")
    clock = favour(CANDIDATES[1])
    assert tuning.choose(("a", 1), CANDIDATES, clock) == CANDIDATES[0]
    assert clock.asked == [] and not cache.exists()
    with monkeypatch.context() as context:
        context.setattr(tuning, "_read", None)  # the file is not looked at, at no call
        for key in (("a", 1), ("c", 1)):
            assert tuning.choose(key, CANDIDATES, clock) == CANDIDATES[0]
    monkeypatch.setenv("VGF_TRITON_AUTOTUNE", "")
    assert tuning.enabled()
    monkeypatch.setenv("VGF_TRITON_AUTOTUNE", "maybe")
    with pytest.raises(ValueError, match="VGF_TRITON_AUTOTUNE: expected 0 or 1, got 'maybe'; "):
        tuning.choose(("b", 1), CANDIDATES, clock)


def test_off_after_it_was_on(monkeypatch):
    """What another process has measured stays where it lies."""
    assert tuning.choose(("a", 1), CANDIDATES, favour(CANDIDATES[1])) == CANDIDATES[1]
    for setting, config in (("0", CANDIDATES[0]), ("1", CANDIDATES[1])):
        tuning.chosen.clear()
        monkeypatch.setenv("VGF_TRITON_AUTOTUNE", setting)
        assert tuning.choose(("a", 1), CANDIDATES, None) == config


def test_nothing_is_measured_during_capture_nor_remembered():
    assert tuning.choose(("a", 1), CANDIDATES, None) == CANDIDATES[0]
    assert tuning.choose(("a", 1), CANDIDATES, favour(CANDIDATES[1])) == CANDIDATES[1]


OTHER_FIELDS = json.dumps({"('a', 1)": {"rows": 16, "lanes": 4}})


@pytest.mark.parametrize("content", ["", "[]", "{", '{"b": ', OTHER_FIELDS])
def test_a_broken_file_is_measured_anew(cache, content):
    cache.write_text(content)
    assert tuning.choose(("a", 1), CANDIDATES, favour(CANDIDATES[1])) == CANDIDATES[1]
    assert list(json.loads(cache.read_text())) == ["('a', 1)"]


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("VGF_CACHE_DIR", str(tmp_path / "file"))
    assert tuning.choose(("a", 1), CANDIDATES, favour(CANDIDATES[1])) == CANDIDATES[1]


def test_where_choices_are_kept(tmp_path, monkeypatch):
    """In folders that are made if need be; an empty setting is none, a later one of these goes before."""
    for setting in ("XDG_CACHE_HOME", "VGF_CACHE_DIR"):
        monkeypatch.setenv(setting, "")
    for setting, place in (
        ("HOME", ".cache/vgf-kernels/triton.json"),
        ("XDG_CACHE_HOME", "vgf-kernels/triton.json"),
        ("VGF_CACHE_DIR", "triton.json"),
    ):
        folder = tmp_path / setting / "new"
        monkeypatch.setenv(setting, str(folder))
        file = folder / place
        assert tuning.file() == file
        tuning.choose((setting, 1), CANDIDATES, favour(CANDIDATES[1]))
        assert file.exists()


def test_no_home(monkeypatch):
    """As of a container's user whom no file of users names."""
    for name in ("VGF_CACHE_DIR", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    with pytest.raises(RuntimeError):
        tuning.file()
    assert tuning.choose(("a", 1), CANDIDATES, favour(CANDIDATES[1])) == CANDIDATES[1]


@pytest.mark.parametrize(("B", "rows"), [(1, 16), (132, 16), (256, 32), (10_000, 64), (100_000, 64)])
def test_the_default_fills_the_gpu(B, rows):
    assert plan.default_config(512, "bf16", B, 10, H100).rows == rows


def test_how_float32_is_multiplied():
    mi250 = plan.Gpu("MI250", 104, 0, False)
    assert [plan.products_of(p, H100) for p in ("fp32", "tf32", "bf16")] == ["ieee", "tf32", "tf32"]
    assert [plan.products_of(p, mi250) for p in ("fp32", "bf16")] == ["ieee", "ieee"]
    with pytest.raises(ValueError, match='precision: MI250 does not multiply tf32; pass "fp32" or "bf16"'):
        plan.products_of("tf32", mi250)


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
@pytest.mark.parametrize("N", [1, 10, 33, 64, 65, 10_000])
@pytest.mark.parametrize("B", [1, 1000])
@pytest.mark.parametrize("width", [16, 64, 512, 1024, 1536])
def test_candidates_fit_the_problem(width, B, N, precision):
    found = plan.candidates(width, precision, B, N, H100)
    assert 1 < len(found) <= 5
    assert found[0] == plan.default_config(width, precision, B, N, H100)
    for config in found:
        assert width % config.chunk == 0
        assert config.rows >= min(N, 16) and (N > plan.LARGEST_STATE or config.rows >= N)


@pytest.fixture
def keys(monkeypatch) -> list:
    """What the choices of configurations depend on, call by call."""
    found = []

    def choose(key, candidates, measure):
        found.append(key)
        return candidates[0]

    for module in (engine, packed):
        monkeypatch.setattr(module, "launch", lambda *_: None)
    monkeypatch.setattr(tuning, "choose", choose)
    return found


def network(inputs=5, hidden=(32,), E=1, norm="none", activation="relu", outputs=1) -> MLP:
    rng = np.random.default_rng(0)
    return make_mlp(rng, (inputs, *hidden, outputs), E, activation, norm)


def key(keys, B=100, N=10, O=3, A=2, precision="bf16", steps=2, critic=(), **settings) -> tuple:
    """What the choice of a flow's configuration depends on."""
    config = FlowConfig(num_steps=steps, **settings)
    mlp = network(O + A, **dict(critic))
    engine.TritonEngine(precision).flow(mlp, torch.zeros(B, O), torch.zeros(B, N, A), config, False)
    return keys[-1]


@pytest.mark.parametrize(
    "change",
    [
        {"B": 300}, {"N": 11}, {"A": 17}, {"precision": "fp32"}, {"kernel": None}, {"bandwidth": 1.0},
        {"bandwidth_grad": True}, {"aggregate": "min"}, {"clip": None}, {"critic": {"hidden": (64,)}},
        {"critic": {"hidden": (32, 32)}}, {"critic": {"E": 2}}, {"critic": {"norm": "pre"}}, {"critic": {"activation": "silu"}},
    ],
    ids=str,
)  # fmt: skip
def test_what_a_choice_depends_on(keys, change):
    assert key(keys, **change) != key(keys)


@pytest.mark.parametrize("change", [{"VERSIONS": "another Triton"}, {"_gpu": lambda device: H100}], ids=["version", "GPU"])
def test_a_choice_is_for_a_version_and_a_gpu(keys, monkeypatch, change):
    before = key(keys)
    for name, value in change.items():
        monkeypatch.setattr(engine, name, value)
    assert key(keys) != before


def test_every_function_has_a_choice_of_its_own(keys):
    critic, policy, config = network(), network(6, outputs=2), FlowConfig()
    obs, noise = torch.zeros(100, 3), torch.zeros(100, 10, 2)
    engine.TritonEngine("fp32").act(critic, policy, obs, noise, 2, config, "max", "mean", 1.0, None)
    engine.TritonEngine("fp32").td_target(
        critic, critic, policy, obs, noise, obs[:, 0], obs[:, 0], 0.9, 2, config, "mean", "max"
    )
    act, td_target = keys[2], keys[-1]
    assert act != td_target


@pytest.mark.parametrize("change", [{"B": 128}, {"steps": 5}, {"learning_rate": 0.3}, {"O": 4}], ids=str)
def test_what_it_does_not(keys, change):
    assert key(keys, **change) == key(keys)
