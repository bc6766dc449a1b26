"""Threads change no result, several callers at once are served, and Python goes on meanwhile."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import emulator
import jax
import numpy as np
import processes
import pytest
import torch
from problems import make_problem
from test_independence import results

import vgf_kernels.jax
import vgf_kernels.torch
from vgf_kernels import FlowConfig, threads

CONFIG = FlowConfig(num_steps=2, learning_rate=0.1, alpha=0.2)


@pytest.fixture
def torch_threads():
    """Sets torch's number of threads; restored afterwards."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def set_threads(engine, count, torch_threads, monkeypatch):
    if engine.frontend == "torch":
        torch_threads(count)
    else:
        monkeypatch.setenv("VGF_NUM_THREADS", str(count))


@pytest.mark.parametrize(("B", "N"), [(1, 10), (1, 300), (2, 40), (5, 10), (64, 10), (33, 7)])
def test_the_number_of_threads_changes_no_bit(cpu, B, N, torch_threads, monkeypatch):
    p = make_problem(B=B, N=N, E=3)
    set_threads(cpu, 1, torch_threads, monkeypatch)
    alone = results(cpu, p)
    for count in (2, 3, 8):
        set_threads(cpu, count, torch_threads, monkeypatch)
        for got, wanted in zip(results(cpu, p), alone):
            np.testing.assert_array_equal(got, wanted)


COUNT = """
import os, sys
from engines import Engine
from problems import make_problem
from vgf_kernels import FlowConfig

engine, p, config = Engine(sys.argv[1], "cpu"), make_problem(B=64, N=20), FlowConfig(num_steps=2)
states, drawn = (p.obs, p.particles), (p.obs, p.noise)
calls = {
    "value": lambda: engine.value(p.critic, *states),
    "value_and_grad": lambda: engine.value_and_grad(p.critic, *states),
    "direction": lambda: engine.direction(p.critic, *states, config),
    "flow": lambda: engine.flow(p.critic, *states, config),
    "sample": lambda: engine.sample(p.policy, *drawn, 2),
    "act": lambda: engine.act(p.critic, p.policy, *drawn, 2, config),
    "td_target": lambda: engine.td_target(
        p.critic, p.target_critic, p.policy, *drawn, p.reward, p.mask, 0.9, 2, config
    ),
    "transport": lambda: engine.transport(lambda x: x, p.particles, config),
}

def started(function, count):
    "How many threads the call starts."
    if engine.frontend == "torch":
        import torch
        torch.set_num_threads(count)
    else:
        os.environ["VGF_NUM_THREADS"] = str(count)
    before = len(os.listdir("/proc/self/task"))
    calls[function]()
    return len(os.listdir("/proc/self/task")) - before

print(started(sys.argv[2], 1), started(sys.argv[2], 3))
"""
FUNCTIONS = ("value", "value_and_grad", "direction", "flow", "sample", "act", "td_target", "transport")


@pytest.mark.parametrize(("frontend", "function"), [*(("numpy", name) for name in FUNCTIONS), ("torch", "flow")])
def test_threads_follow_the_frontends_setting(frontend, function):
    """The calling thread is one of them. Of the second call weights are packed already, which takes threads too."""
    done = processes.python("-c", COUNT, frontend, function)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0", "2"]


def test_threads_of_jax_follow_the_setting(monkeypatch):
    """They are written into what is compiled."""
    monkeypatch.setenv("VGF_NUM_THREADS", "3")
    p = make_problem()
    flow = jax.jit(lambda x: vgf_kernels.jax.flow(p.critic, p.obs, x, CONFIG))
    assert "threads = 3" in flow.lower(p.particles).as_text()


@pytest.mark.parametrize("setting", ["0", "-1", "two", "1.5", "5000", "9999999999"])
def test_a_thread_count_that_is_none(cpu_numpy, setting, monkeypatch):
    p = make_problem()
    monkeypatch.setenv("VGF_NUM_THREADS", setting)
    with pytest.raises(ValueError, match=rf"VGF_NUM_THREADS: expected an integer from 1 to 4096, got '{setting}'; "):
        cpu_numpy.value(p.critic, p.obs, p.particles)


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({"OMP_NUM_THREADS": "3,1"}, 3),  # the threads of nested teams
        ({"VGF_NUM_THREADS": "2", "OMP_NUM_THREADS": "3"}, 2),
        ({}, len(os.sched_getaffinity(0))),
    ],
)
def test_what_sets_the_number_of_threads(settings, count, monkeypatch, tmp_path):
    monkeypatch.setattr(threads, "CONTAINER_SHARE", tmp_path / "none")
    for name in ("VGF_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, settings.get(name, ""))
    assert threads.threads() == count


def test_several_callers_at_once(cpu):
    """Different problems, and the same networks packed by all of them at the same time."""
    problems = [
        make_problem(B=b, N=n, seed=s) for s, (b, n) in enumerate([(1, 10), (40, 10), (3, 300), (17, 7)])
    ]
    wanted = [results(cpu, p) for p in problems]
    for p in problems:
        for mlp in (p.critic, p.target_critic, p.policy):
            mlp.packed.clear()
    start = threading.Barrier(8)

    def work(worker):
        start.wait()
        return [(i, results(cpu, problems[i])) for i in np.random.default_rng(worker).integers(0, 4, 12)]

    with ThreadPoolExecutor(8) as pool:
        for done in pool.map(work, range(8)):
            for i, got in done:
                for array, exact in zip(got, wanted[i]):
                    np.testing.assert_array_equal(array, exact)


def test_who_helps_whom(tmp_path):
    """Workers join work that is under way, and a team never waits for those that others have (tests/team.cpp)."""
    compiler = emulator.compiler()
    if compiler is None:
        pytest.skip("no C++ compiler was found (set CXX)")
    sources = [emulator.ROOT / "tests/team.cpp", emulator.ROOT / "csrc/cpu/team.cpp"]
    options = ["-std=c++17", "-O2", "-pthread", f"-I{emulator.ROOT / 'csrc'}"]
    emulator.run([compiler, *options, *map(str, sources), "-o", str(tmp_path / "team")])
    done = subprocess.run([tmp_path / "team"], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_python_goes_on_during_a_call(torch_threads):
    """With the lock held, the other thread would stand still for the whole call."""
    torch_threads(1)
    p = make_problem(B=256, N=10, hidden=(256, 256), activation="silu")
    obs, x = torch.from_numpy(p.obs), torch.from_numpy(p.particles)
    vgf_kernels.torch.flow(p.critic, obs, x, CONFIG, backend="cpu")
    ticks = []
    stop = threading.Event()

    def tick():
        while not stop.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.001)

    other = threading.Thread(target=tick)
    other.start()
    begin = time.perf_counter()
    vgf_kernels.torch.flow(p.critic, obs, x, FlowConfig(num_steps=20), backend="cpu")
    end = time.perf_counter()
    stop.set()
    other.join()
    inside = [t for t in ticks if begin < t < end]
    longest = max(b - a for a, b in zip([begin, *inside], [*inside, end]))
    assert longest < (end - begin) / 2


@pytest.mark.parametrize(
    ("text", "wanted"), [("max 100000", 64), ("150000 100000", 2), ("1000 100000", 1), ("9900000 100000", 64), ("", 64)]
)
def test_a_container_has_a_share_of_the_cpus(monkeypatch, tmp_path, text, wanted):
    (tmp_path / "cpu.max").write_text(text)
    monkeypatch.setattr(threads, "CONTAINER_SHARE", tmp_path / "cpu.max")
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(64)))
    assert threads.available_cpus() == wanted
